// The instruction sets that kernels are compiled for, and the tables of kernels that this processor can run.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

namespace janus_fast {

// Those of this processor, best first.
const std::vector<std::string>& isas();

bool runs(const std::string& isa);

// The first that is named so; null where there is none.
template <typename Tables>
typename Tables::value_type find_table(const Tables& tables, const std::string& isa) {
  for (const auto table : tables)
    if (isa == table->isa) return table;
  return nullptr;
}

// Of a library's tables, one an instruction set, those that can run here, best first.
template <typename Table>
std::vector<const Table*> runnable(std::initializer_list<const Table*> tables) {
  std::vector<const Table*> found;
  for (const std::string& isa : isas())
    if (const Table* table = find_table(tables, isa)) found.push_back(table);
  return found;
}

template <typename Table>
std::string names_of(const std::vector<const Table*>& tables, const std::string& between) {
  std::string names;
  for (const Table* table : tables) names += (names.empty() ? "" : between) + table->isa;
  return names;
}

}  // namespace janus_fast
