// The engine's kernels one by one on numpy arrays, for tests and timings: janus_fast._engine.kernels.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "csrc/engine/arguments.h"
#include "csrc/engine/forward.h"
#include "csrc/isa.h"

namespace py = pybind11;

namespace janus_fast {
namespace {

template <typename T>
using Numbers = py::array_t<T, py::array::c_style>;
template <typename T>
using Maybe = std::optional<Numbers<T>>;
typedef std::pair<int64_t, int64_t> Range;

Numeric numeric_of(const std::string& type) {
  return named<Numeric>("kernels: type", type,
                        {{"float32", Numeric::kFloat32}, {"bfloat16", Numeric::kBFloat16}, {"int8", Numeric::kInt8}});
}

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(std::string("kernels: ") + what);
}

struct Zeroed : Buffer<char> {
  explicit Zeroed(size_t bytes) { std::memset(grow(bytes + 64), 0, bytes + 64); }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data());
  }
};

int64_t group_of(Numeric type) { return type == Numeric::kFloat32 ? 1 : type == Numeric::kBFloat16 ? 2 : 4; }

struct OwnedOperand {
  OwnedOperand(Numeric type, int64_t rows, int64_t channels)
      : stride((channels + group_of(type) - 1) / group_of(type) * group_of(type) + 4),
        data(rows * stride * bytes_of(type)),
        scales(rows * sizeof(float)) {}
  Operand operand() const { return {data.data(), scales.as<float>(), stride}; }
  int64_t stride;
  Zeroed data, scales;
};

// An operand's rows and scales as Python sees them: no padding.
std::pair<py::array, py::array> arrays_of(const OwnedOperand& operand, Numeric type, int64_t rows, int64_t channels) {
  const char* dtype = type == Numeric::kFloat32 ? "float32" : type == Numeric::kBFloat16 ? "uint16" : "uint8";
  const int64_t bytes = bytes_of(type);
  py::array view(py::dtype(dtype), {rows, channels}, {operand.stride * bytes, bytes}, operand.data.data());
  return {view.attr("copy")(), Numbers<float>(rows, operand.scales.as<float>())};
}

class PackedMatrix {
 public:
  PackedMatrix(const py::array& weight, const std::string& type, const Maybe<float>& bias, const py::object& scales,
               const std::string& isa)
      : kernels_(engine_kernels("kernels", isa)),
        outputs_(weight.ndim() == 2 ? weight.shape(0) : 0),
        inputs_(weight.ndim() == 2 ? weight.shape(1) : 0),
        padded_((outputs_ + kernels_.panel - 1) / kernels_.panel * kernels_.panel),
        panels_(kernels_.panel_bytes(numeric_of(type), outputs_, inputs_)),
        bias_(padded_ * 4),
        scales_(padded_ * 4),
        offsets_(padded_ * 4) {
    const Table table = table_of("kernels: weight", weight, scales);
    require(outputs_ > 0 && inputs_ > 0, "a weight must not be empty");
    if (bias) fill_bias(*bias, bias_.as<float>());
    kernels_.pack(table, outputs_, inputs_, numeric_of(type), panels_.data(), scales_.as<float>(),
                  offsets_.as<int32_t>());
    matrix_ = {numeric_of(type),      outputs_, inputs_, panels_.data(), bias_.as<float>(), scales_.as<float>(),
               offsets_.as<int32_t>()};
  }

  int64_t panels() const { return padded_ / kernels_.panel; }
  int64_t groups() const { return (outputs_ + kernels_.group - 1) / kernels_.group; }

  py::array multiply(const Numbers<float>& x, const std::string& activation, const Maybe<float>& residual, bool narrow,
                     const std::optional<std::vector<Range>>& ranges) const {
    const OwnedOperand operand = converted(x);
    const int64_t rows = x.shape(0), stride = (outputs_ + 1) / 2 * 2;
    MultiplyCall call = {};
    call.x = operand.operand(), call.rows = rows, call.weight = &matrix_;
    call.activation = named<Activation>("kernels: activation", activation, kActivations);
    call.output_stride = stride;
    if (residual) {
      require(residual->ndim() == 2 && residual->shape(0) == rows && residual->shape(1) == outputs_ && !narrow,
              "residual must have the shape of a float32 output");
      call.residual = residual->data(), call.residual_stride = outputs_;
    }
    py::array output(py::dtype(narrow ? "uint16" : "float32"), {rows, stride});
    (narrow ? reinterpret_cast<void*&>(call.narrow) : reinterpret_cast<void*&>(call.output)) = output.mutable_data();
    for (const auto& [begin, end] : checked(ranges, panels())) kernels_.multiply(call, begin, end);
    return output[py::make_tuple(py::ellipsis(), py::slice(0, outputs_, 1))];
  }

  py::tuple vocabulary(const Numbers<float>& x, int64_t k, const Maybe<float>& bias, const Maybe<int32_t>& asked,
                       const std::optional<std::vector<Range>>& ranges) const {
    const OwnedOperand operand = converted(x);
    const int64_t rows = x.shape(0);
    require(k >= 0, "k must not be negative");
    require(!asked || (asked->ndim() == 1 && asked->shape(0) == rows), "asked must have a token a row");
    const Zeroed own_bias(padded_ * 4), max(rows * groups() * 4), sum(rows * groups() * 4);
    const Zeroed values(rows * groups() * k * 4), group_tokens(rows * groups() * k * 4), asked_logits(rows * 4);
    if (bias) fill_bias(*bias, own_bias.as<float>());
    Numbers<int32_t> tokens({rows, k});
    Numbers<float> log_probs({rows, k}), asked_log_probs(rows);
    VocabularyCall call = {};
    call.x = operand.operand(), call.rows = rows, call.weight = &matrix_, call.k = k;
    call.bias = bias ? own_bias.as<float>() : matrix_.bias;
    call.group_max = max.as<float>(), call.group_sum = sum.as<float>(), call.group_values = values.as<float>();
    call.group_tokens = group_tokens.as<int32_t>(), call.tokens = tokens.mutable_data();
    call.log_probs = log_probs.mutable_data(), call.asked = asked ? asked->data() : nullptr;
    call.asked_logits = asked_logits.as<float>(), call.asked_log_probs = asked_log_probs.mutable_data();
    for (const auto& [begin, end] : checked(ranges, groups())) kernels_.vocabulary_groups(call, begin, end);
    kernels_.vocabulary_merge(call, 0, rows);
    if (!asked) return py::make_tuple(tokens, log_probs, py::none());
    return py::make_tuple(tokens, log_probs, asked_log_probs);
  }

 private:
  void fill_bias(const Numbers<float>& from, float* to) const {
    require(from.ndim() == 1 && from.shape(0) == outputs_, "bias must have an element an output");
    std::memcpy(to, from.data(), outputs_ * 4);
  }

  OwnedOperand converted(const Numbers<float>& x) const {
    require(x.ndim() == 2 && x.shape(1) == inputs_, "x must have the weight's inputs");
    OwnedOperand operand(matrix_.type, x.shape(0), inputs_);
    kernels_.convert({x.data(), x.shape(0), inputs_, inputs_, matrix_.type, operand.operand()}, 0, x.shape(0));
    return operand;
  }

  static std::vector<Range> checked(const std::optional<std::vector<Range>>& ranges, int64_t count) {
    for (const auto& [begin, end] : ranges.value_or(std::vector<Range>{}))
      require(0 <= begin && begin <= end && end <= count, "ranges must lie within what there is");
    return ranges.value_or(std::vector<Range>{{0, count}});
  }

  const EngineKernels& kernels_;
  int64_t outputs_, inputs_, padded_;
  Zeroed panels_, bias_, scales_, offsets_;
  Matrix matrix_;
};

std::pair<py::array, py::array> convert(const Numbers<float>& x, const std::string& type, const std::string& isa) {
  require(x.ndim() == 2, "x must be a matrix");
  const int64_t rows = x.shape(0), channels = x.shape(1);
  const OwnedOperand operand(numeric_of(type), rows, channels);
  engine_kernels("kernels", isa)
      .convert({x.data(), rows, channels, channels, numeric_of(type), operand.operand()}, 0, rows);
  return arrays_of(operand, numeric_of(type), rows, channels);
}

py::tuple norm(const Numbers<float>& x, const Numbers<float>& weight, const Numbers<float>& bias, float epsilon,
               const std::string& type, bool with_output, const std::string& isa) {
  require(x.ndim() == 2 && weight.ndim() == 1 && bias.ndim() == 1 && weight.shape(0) == x.shape(1) &&
              bias.shape(0) == x.shape(1),
          "weight and bias must have an element a channel of x");
  const int64_t rows = x.shape(0), channels = x.shape(1);
  const OwnedOperand operand(numeric_of(type), rows, channels);
  Numbers<float> output({rows, channels});
  engine_kernels("kernels", isa)
      .norm({x.data(), rows, channels, channels, weight.data(), bias.data(), epsilon,
             with_output ? output.mutable_data() : nullptr, channels, numeric_of(type), operand.operand()},
            0, rows);
  const auto arrays = arrays_of(operand, numeric_of(type), rows, channels);
  return py::make_tuple(with_output ? py::object(output) : py::none(), arrays.first, arrays.second);
}

Numbers<float> embed(const py::array& table, const py::object& scales, const Numbers<float>& positions,
                     const Numbers<int32_t>& ids, const Numbers<int32_t>& places, float scale, const std::string& isa) {
  const Table tokens = table_of("kernels: table", table, scales);
  require(positions.ndim() == 2 && positions.shape(1) == table.shape(1), "positions must have the table's channels");
  require(ids.ndim() == 1 && places.ndim() == 1 && ids.shape(0) == places.shape(0),
          "a row must have an id and a place");
  const int64_t rows = ids.shape(0);
  for (int64_t i = 0; i < rows; i++)
    require(ids.at(i) >= 0 && ids.at(i) < table.shape(0) && places.at(i) >= 0 && places.at(i) < positions.shape(0),
            "ids and places must be rows of their tables");
  Numbers<float> output({rows, int64_t{table.shape(1)}});
  engine_kernels("kernels", isa)
      .embed({tokens, positions.data(), ids.data(), places.data(), rows, table.shape(1), scale, output.mutable_data()},
             0, rows);
  return output;
}

// query [R, H, D], `steps` rows a hypothesis; key and value [H, slots, capacity, D], float32, bfloat16 bits or int8
// with key_scales and value_scales [H, slots, capacity], changed where new_key and new_value [R, H, D] are given;
// origin [count, slots]; places [R], or each the last.
template <typename T>
Numbers<float> attend_cached(const Numbers<float>& query, Numbers<T>& key, Numbers<T>& value,
                             const Numbers<int32_t>& origin, float scale, const Maybe<float>& new_key,
                             const Maybe<float>& new_value, const Maybe<int32_t>& places, int64_t steps,
                             const std::string& isa, Maybe<float>& key_scales, Maybe<float>& value_scales) {
  require(query.ndim() == 3 && key.ndim() == 4 && value.ndim() == 4 && origin.ndim() == 2,
          "wrong number of dimensions");
  const int64_t rows = query.shape(0), heads = query.shape(1), size = query.shape(2), slots = key.shape(1);
  for (const auto* cache : {&key, &value})
    require(cache->shape(0) == heads && cache->shape(1) == slots && cache->shape(2) == key.shape(2) &&
                cache->shape(2) >= origin.shape(0) && cache->shape(3) == size,
            "key and value must be [H, slots, capacity, D]");
  require(steps > 0 && rows % steps == 0, "query must have `steps` rows a hypothesis");
  require(origin.shape(0) > 0 && origin.shape(1) == slots && rows <= slots * steps, "origin must be [count, slots]");
  for (int64_t i = 0; i < origin.size(); i++)
    require(origin.data()[i] >= 0 && origin.data()[i] < slots, "origin must name slots");
  const std::vector<int32_t> at = places ? std::vector<int32_t>(places->data(), places->data() + places->size())
                                         : std::vector<int32_t>(rows, static_cast<int32_t>(origin.shape(0)) - 1);
  require(static_cast<int64_t>(at.size()) == rows, "places must have one a row");
  for (int32_t place : at) require(place >= 0 && place < origin.shape(0), "places must be rows of origin");
  require(new_key.has_value() == new_value.has_value(), "new_key and new_value must be given together");
  for (const auto* fresh : {&new_key, &new_value})
    if (*fresh)
      require((*fresh)->ndim() == 3 && (*fresh)->shape(0) == rows && (*fresh)->size() == query.size(),
              "new_key and new_value must have the query's shape");
  constexpr bool kScaled = std::is_same<T, int8_t>::value;
  for (const auto* scales : {&key_scales, &value_scales})
    require(scales->has_value() == kScaled && (!kScaled || (*scales)->size() == heads * slots * key.shape(2)),
            "int8 must have key_scales and value_scales [H, slots, capacity], others none");
  Numbers<float> output({rows, heads, size});
  CachedAttentionCall call = {};
  call.query = query.data();
  call.query_stride = call.new_stride = call.output_stride = heads * size;
  if (new_key) call.new_key = new_key->data(), call.new_value = new_value->data();
  call.type = kScaled ? Numeric::kInt8 : std::is_same<T, float>::value ? Numeric::kFloat32 : Numeric::kBFloat16;
  if (kScaled) call.key_scales = key_scales->mutable_data(), call.value_scales = value_scales->mutable_data();
  call.key = key.mutable_data();
  call.value = value.mutable_data();
  call.slots = slots;
  call.capacity = key.shape(2);
  call.origin = origin.data();
  call.places = at.data();
  call.hypotheses = rows / steps;
  call.steps = steps;
  call.heads = heads;
  call.size = size;
  call.scale = scale;
  call.output = output.mutable_data();
  engine_kernels("kernels", isa).attend_cached(call, 0, rows / steps * heads);
  return output;
}

// input [R, 2 C]; states [any, C], changed; offsets of the sequences; which states are before each row (-1: zeros) and
// its own; output [R, C], added to.
void recur(const Numbers<float>& input, Numbers<float>& states, const Numbers<int32_t>& offsets,
           const Numbers<int64_t>& before, const Numbers<int64_t>& own, Numbers<float>& output,
           const std::string& isa) {
  require(input.ndim() == 2 && states.ndim() == 2 && offsets.ndim() == 1 && offsets.size() > 0 && output.ndim() == 2,
          "wrong number of dimensions");
  const int64_t rows = input.shape(0), channels = states.shape(1), count = states.shape(0);
  require(input.shape(1) == 2 * channels && output.shape(0) == rows && output.shape(1) == channels,
          "input must be [R, 2 C] and output [R, C]");
  require(before.size() == rows && own.size() == rows, "before and own must have one a row");
  for (int64_t row = 0; row < rows; row++)
    require(before.at(row) >= -1 && before.at(row) < count && own.at(row) >= 0 && own.at(row) < count,
            "before and own must name states");
  require(offsets.at(0) == 0 && offsets.at(offsets.size() - 1) == rows &&
              std::is_sorted(offsets.data(), offsets.data() + offsets.size()),
          "offsets must go from 0 to the number of rows");
  const RecurrenceCall call = {
      input.data(), channels, offsets.data(), before.data(), own.data(), states.mutable_data(), output.mutable_data()};
  engine_kernels("kernels", isa).recur(call, 0, offsets.size() - 1);
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("isas", &isas, "Instruction sets whose kernels run on this processor, best first.");
  auto k = m.def_submodule("kernels", "The engine's kernels one by one, for tests and timings.");
  using py::arg;
  py::class_<PackedMatrix>(k, "PackedMatrix")
      .def(py::init<const py::array&, const std::string&, const Maybe<float>&, const py::object&, const std::string&>(),
           arg("weight"), arg("type"), arg("bias") = py::none(), arg("scales") = py::none(), arg("isa") = "")
      .def_property_readonly("panels", &PackedMatrix::panels)
      .def_property_readonly("groups", &PackedMatrix::groups)
      .def("multiply", &PackedMatrix::multiply, arg("x"), arg("activation") = "none", arg("residual") = py::none(),
           arg("narrow") = false, arg("ranges") = py::none(),
           "x W^T + bias and so on, as float32 or bfloat16 bits; only the panels of `ranges`.")
      .def("vocabulary", &PackedMatrix::vocabulary, arg("x"), arg("k"), arg("bias") = py::none(),
           arg("asked") = py::none(), arg("ranges") = py::none(),
           "Tokens, log-probabilities, and those of the tokens asked for; `ranges` of groups must cover all once.");
  k.def("convert", &convert, arg("x"), arg("type"), arg("isa") = "", "The operand's rows, and scales if int8.");
  k.def("norm", &norm, arg("x"), arg("weight"), arg("bias"), arg("epsilon"), arg("type") = "float32",
        arg("with_output") = true, arg("isa") = "", "Float rows, and the operand's rows and scales.");
  k.def("embed", &embed, arg("table"), arg("scales").none(true), arg("positions"), arg("ids"), arg("places"),
        arg("scale"), arg("isa") = "");
  k.def("recur", &recur, arg("input"), arg("states").noconvert(), arg("offsets"), arg("before"), arg("own"),
        arg("output").noconvert(), arg("isa") = "");
  const auto attention = [&](const auto& function) {
    k.def("attend_cached", function, arg("query"), arg("key").noconvert(), arg("value").noconvert(), arg("origin"),
          arg("scale"), arg("new_key") = py::none(), arg("new_value") = py::none(), arg("places") = py::none(),
          arg("steps") = 1, arg("isa") = "", arg("key_scales").noconvert() = py::none(),
          arg("value_scales").noconvert() = py::none());
  };
  py::class_<Pace>(k, "Pace", "How many tokens to draft, by drafter, most of them and sentences of the batch.")
      .def(py::init<>())
      .def("choose", [](Pace& pace, int drafter, int64_t most,
                        int64_t sentences) { return pace.choose(Pace::kind(drafter, most, sentences)); })
      .def("record",
           [](Pace& pace, int drafter, int64_t most, int64_t sentences, int64_t length, int64_t tokens,
              double nanoseconds) { pace.record(Pace::kind(drafter, most, sentences), length, tokens, nanoseconds); });
  attention(&attend_cached<uint16_t>);
  attention(&attend_cached<int8_t>);
  attention(&attend_cached<float>);
}

}  // namespace janus_fast
