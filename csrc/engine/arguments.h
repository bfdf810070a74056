// What the bindings read from Python's arguments.
#pragma once

#include <pybind11/numpy.h>

#include <initializer_list>
#include <string>
#include <utility>

#include "csrc/activations.h"
#include "kernels/cpu/engine.h"

namespace janus_fast {

// What a name stands for.
template <typename T, typename Names = std::initializer_list<std::pair<const char*, T>>>
T named(const std::string& argument, const std::string& name, const Names& all) {
  std::string names;
  for (const auto& [known, value] : all) {
    if (name == known) return value;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw pybind11::value_error(argument + " must be one of " + names + ", got " + name);
}

// Rows as a file stores them: float32, uint16 (the bits of bfloat16), or int8 with a scale a row.
inline Table table_of(const std::string& argument, const pybind11::array& rows, const pybind11::object& scales) {
  namespace py = pybind11;
  const auto contiguous = [](const py::array& array) { return (array.flags() & py::array::c_style) != 0; };
  if (!contiguous(rows)) throw py::value_error(argument + " must be contiguous");
  const auto type =
      named<Numeric>(argument, py::str(rows.dtype()),
                     {{"float32", Numeric::kFloat32}, {"uint16", Numeric::kBFloat16}, {"int8", Numeric::kInt8}});
  if (type != Numeric::kInt8) return {type, rows.data(), nullptr};
  const auto found = py::isinstance<py::array_t<float>>(scales) ? scales.cast<py::array>() : py::array();
  if (rows.ndim() != 2 || found.ndim() != 1 || found.shape(0) != rows.shape(0) || !contiguous(found))
    throw py::value_error(argument + "_scale must be float32, one number for each row of " + argument);
  return {type, rows.data(), static_cast<const float*>(found.data())};
}

}  // namespace janus_fast
