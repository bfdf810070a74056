// Model and Decoder in Python. Here is checked what memory depends on, so that nothing behind can leave it, whoever
// calls; what else options must is checked by janus_fast/decoding/options.py, in the words that users read.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "csrc/engine/arguments.h"
#include "csrc/engine/autoregressive.h"
#include "csrc/engine/gil.h"
#include "csrc/engine/mask_predict.h"
#include "csrc/engine/score.h"
#include "csrc/engine/semi_nar.h"
#include "csrc/engine/speculative.h"
#include "csrc/engine/workers.h"

namespace py = pybind11;

namespace janus_fast {
namespace {

typedef py::array_t<int32_t, py::array::c_style | py::array::forcecast> IntArray;
typedef py::array_t<double, py::array::c_style | py::array::forcecast> DoubleArray;

[[noreturn]] void refuse(const std::string& message) { throw py::value_error(message); }

// The bounds of options.py and config.py. What Python lets through passes here; no product of sizes overflows.
constexpr int64_t kMost = 512, kMostSamples = 4096, kMostPositions = 1 << 17, kMostAhead = 7;
constexpr int64_t kMostInteger = std::numeric_limits<int32_t>::max();
constexpr double kMostPenalty = 10;

template <typename Value>
void require(bool holds, const std::string& argument, const std::string& rule, const Value& value) {
  if (!holds) refuse(argument + " must " + rule + ", got " + std::string(py::str(py::cast(value))));
}

void within(const std::string& argument, int64_t value, int64_t least, int64_t most) {
  require(value >= least && value <= most, argument,
          "be in [" + std::to_string(least) + ", " + std::to_string(most) + "]", value);
}

// Fills a record from the entries of its fields' names; returns how many these are.
template <typename Record>
size_t fill(const std::string& owner, Record& record, const py::dict& given) {
  size_t count = 0;
  record.each([&](const char* name, auto& field) {
    typedef std::decay_t<decltype(field)> Field;
    const py::object value = given[name];
    try {
      field = value.cast<Field>();
    } catch (const py::cast_error&) {
      require(false, owner + name, "fit the C++ type " + py::type_id<Field>(), std::string(py::str(value)));
    }
    count++;
  });
  return count;
}

Config config_of(const py::dict& given) {
  Config config = {};
  fill("Model: ", config, given);
  config.each([&](const std::string& name, const auto& field) {
    typedef std::decay_t<decltype(field)> Field;
    const bool places = name.find("position") != std::string::npos;
    if constexpr (std::is_same_v<Field, int64_t>)
      within("Model: " + name, field, name != "position_offset" && name != "streams_ahead",
             places ? kMostPositions : kMostInteger);
    if constexpr (std::is_same_v<Field, int32_t>) within("Model: " + name, field, 0, config.target_vocab_size - 1);
  });
  require(config.d_model % config.attention_heads == 0, "Model: d_model",
          "be a multiple of attention_heads = " + std::to_string(config.attention_heads), config.d_model);
  require(!config.share_all_embeddings || config.source_vocab_size == config.target_vocab_size,
          "Model: target_vocab_size", "equal source_vocab_size when share_all_embeddings is set",
          config.target_vocab_size);
  require(std::isfinite(config.layer_norm_eps) && config.layer_norm_eps > 0, "Model: layer_norm_eps",
          "be a positive, finite number", config.layer_norm_eps);
  config.activation = named<Activation>("Model: activation", given["activation"].cast<std::string>(), kActivations);
  config.suppressed = given["suppressed"].cast<std::vector<int32_t>>();
  for (int32_t token : config.suppressed) within("Model: suppressed", token, 0, config.target_vocab_size - 1);
  config.sinusoidal = named<bool>("Model: positions", given["positions"].cast<std::string>(),
                                  {{"learned", false}, {"sinusoidal", true}});
  config.recurrent = named<bool>("Model: decoder_autoreg", given["decoder_autoreg"].cast<std::string>(),
                                 {{"self-attention", false}, {"ssru", true}});
  require(!config.recurrent || !config.two_stream, "Model: two_stream", "be False with decoder_autoreg ssru",
          config.two_stream);
  within("Model: streams_ahead", config.streams_ahead, 0, config.two_stream ? kMostAhead : 0);
  require(!config.sinusoidal || config.d_model % 2 == 0, "Model: d_model", "be even with sinusoidal positions",
          config.d_model);
  return config;
}

template <typename Options>
Options options_of(const py::dict& given) {
  Options options = {};
  if (fill("Decoder: ", options, given) != given.size()) {
    const py::dict left = given.attr("copy")();
    options.each([&](const char* name, auto&) { left.attr("pop")(name); });
    refuse("Decoder: options must be those that the engine was built with (pip install -e . builds it again), got " +
           std::string(py::str(py::list(left)[0])));
  }
  return options;
}

// A model and the arrays that it looks up rows in.
struct Loaded {
  std::unique_ptr<Model> model;
  py::list kept;
};

std::unique_ptr<Loaded> load(const py::dict& fields, const py::dict& tensors, const std::string& compute_type,
                             const std::string& isa) {
  typedef std::pair<Numeric, Numeric> Types;
  const auto [layers, vocabulary] = named<Types>("Model: compute_type", compute_type,
                                                 {{"float32", {Numeric::kFloat32, Numeric::kFloat32}},
                                                  {"bfloat16", {Numeric::kBFloat16, Numeric::kBFloat16}},
                                                  {"int8", {Numeric::kInt8, Numeric::kInt8}},
                                                  {"int8_bfloat16", {Numeric::kInt8, Numeric::kBFloat16}}});
  const Config config = config_of(fields);
  const EngineKernels& kernels = engine_kernels("Model", isa);
  auto loaded = std::make_unique<Loaded>();
  Arrays arrays;
  for (const auto& item : tensors) {
    const auto name = item.first.cast<std::string>();
    if (name.size() > 6 && name.substr(name.size() - 6) == "_scale") continue;
    require(py::isinstance<py::array>(item.second), "Model: " + name, "be a NumPy array",
            std::string(py::str(py::type::of(item.second))));  // memory that lasts
    const auto array = item.second.cast<py::array>();
    const std::string scale = name + "_scale";
    const py::object scales = tensors.contains(scale.c_str()) ? py::object(tensors[scale.c_str()]) : py::none();
    arrays[name] = {table_of("Model: " + name, array, scales), {array.shape(), array.shape() + array.ndim()}};
  }
  for (const std::string name : {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"})
    for (const std::string suffix : {"", "_scale"})
      if (tensors.contains((name + suffix).c_str())) loaded->kept.append(tensors[(name + suffix).c_str()]);
  const WithoutGil release;
  loaded->model = std::make_unique<Model>(config, arrays, layers, vocabulary, kernels);
  return loaded;
}

// Packed ids whose tokens are below `vocabulary`, each sequence with `least` to `most` of them.
Ids ids_of(const char* name, const IntArray& ids, const IntArray& offsets, int64_t vocabulary, int64_t least,
           int64_t most) {
  const std::string what = std::string("Decoder: ") + name;
  if (ids.ndim() != 1 || offsets.ndim() != 1 || offsets.size() < 1)
    refuse(what + " must be vectors of ids and offsets");
  const Ids packed = {ids.data(), offsets.data(), offsets.size() - 1};
  if (packed.offsets[0] != 0 || packed.offsets[packed.count] != ids.size())
    refuse(what + " offsets must go from 0 to the number of ids, " + std::to_string(ids.size()));
  for (int64_t i = 0; i < packed.count; i++) {
    const int64_t length = int64_t{packed.offsets[i + 1]} - packed.offsets[i];
    if (length < least || length > most)
      refuse(what + " " + std::to_string(i) + " must have " + std::to_string(least) + " to " + std::to_string(most) +
             " tokens, got " + std::to_string(length));
  }
  for (int64_t i = 0; i < ids.size(); i++)
    if (packed.ids[i] < 0 || packed.ids[i] >= vocabulary)
      refuse(what + " must hold ids in [0, " + std::to_string(vocabulary) + "), got " + std::to_string(packed.ids[i]));
  return packed;
}

py::list arrays_of(const std::vector<std::vector<float>>& rows) {
  py::list arrays;
  for (const auto& row : rows) arrays.append(py::array_t<float>(static_cast<py::ssize_t>(row.size()), row.data()));
  return arrays;
}

class Decoder {
 public:
  Decoder(std::shared_ptr<Loaded> loaded, int workers, int threads)
      : loaded_(std::move(loaded)), count_(workers), threads_(threads) {
    require_threads("Decoder: workers", workers);
    require_threads("Decoder: threads", threads);
    this->workers();
  }
  ~Decoder() {
    if (workers_ && workers_->process != forks()) workers_.release();
  }

  py::list mask_predict(const IntArray& source, const IntArray& offsets, const py::dict& given, const py::object& check,
                        const py::object& words) {
    const Config& config = model().config;
    auto options = options_of<NonAutoregressiveOptions>(given);
    if (!config.two_stream)
      refuse("Decoder: model must have two streams to decode in parallel; it is an ordinary Transformer");
    within("Decoder: iterations", options.iterations, 1, kMost);
    const int64_t lengths = std::min(config.max_target_positions, config.length_classes - 1) - 1;
    within("Decoder: length_beam", options.length_beam, 1, std::min(kMost, lengths));
    within("Decoder: num_hypotheses", options.num_hypotheses, 1, options.length_beam);
    require(!options.ordered() || !config.predictable_mask(), "Decoder: order",
            "be 'parallel' with a model whose mask is a word", options.order);
    require(options.ordered() || !config.permuted, "Decoder: order",
            "be easy_first, left_to_right or right_to_left with a model that was trained to fill word after word",
            options.order);
    const Ids sources = sources_of(source, offsets, options.length_beam);
    const Targets allowed = words_of(words, sources);
    options.words = allowed.get();
    return decode(check, [&](Worker& w, WithoutGil&) {
      return janus_fast::mask_predict(model(), w.workspace, w.team, sources, options);
    });
  }

  py::list beam_search(const IntArray& source, const IntArray& offsets, const py::dict& given, const py::object& check,
                       const py::object& prefixes, const py::object& words, const DoubleArray& uniforms,
                       const py::object& callback) {
    auto options = options_of<AutoregressiveOptions>(given);
    const int64_t longest = longest_of(options);
    within("Decoder: beam_size", options.beam_size, 1, kMost);
    require(options.patience > 0 && options.patience <= kMost, "Decoder: patience", "be in (0, 512]", options.patience);
    require(std::isfinite(options.coverage_penalty), "Decoder: coverage_penalty", "be finite",
            options.coverage_penalty);
    require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "Decoder: repetition_penalty",
            "be a finite number above 0", options.repetition_penalty);
    require(options.prefix_bias_beta >= 0 && options.prefix_bias_beta < 1, "Decoder: prefix_bias_beta", "be in [0, 1)",
            options.prefix_bias_beta);
    within("Decoder: alignment_heads", options.alignment_heads, 0, kMostInteger);
    for (int32_t token : options.end_token)
      within("Decoder: end_token", token, 0, model().config.target_vocab_size - 1);
    for (const auto& sequence : options.suppress_sequences)
      for (int32_t token : sequence)
        within("Decoder: suppress_sequences", token, 0, model().config.target_vocab_size - 1);
    require(options.beam_size == 1 || (!options.return_logits_vocab && callback.is_none()), "Decoder: beam_size",
            "be 1 with return_logits_vocab or a callback", options.beam_size);
    const int64_t most = std::max(options.beam_size, static_cast<int64_t>(options.beam_size * options.patience + 0.5));
    within("Decoder: num_hypotheses", options.num_hypotheses, 1, options.sampling() ? kMostSamples : most);
    within("Decoder: sampling_topk", options.sampling_topk, 0, kMostInteger);
    require(options.sampling_topp > 0 && options.sampling_topp <= 1, "Decoder: sampling_topp", "be in (0, 1]",
            options.sampling_topp);
    require(options.sampling_temperature > 0 && std::isfinite(options.sampling_temperature),
            "Decoder: sampling_temperature", "be a finite number above 0", options.sampling_temperature);
    const Ids sources = sources_of(source, offsets, options.sampling() ? options.num_hypotheses : options.beam_size);
    if (options.sampling()) {
      if (uniforms.ndim() != 2 || uniforms.shape(0) != sources.count * options.num_hypotheses ||
          uniforms.shape(1) <= longest)
        refuse("Decoder: uniforms must have a row for each sample and a column for each step");
      options.uniforms = uniforms.data();
      options.steps = uniforms.shape(1);
    }
    const Targets begun = targets_of("prefixes", prefixes, sources, longest), allowed = words_of(words, sources);
    options.words = allowed.get();
    return decode(check, [&](Worker& w, WithoutGil& unlocked) {
      if (!callback.is_none())
        options.callback = [&](const AutoregressiveOptions::Step& s) {
          int stop = -1;
          unlocked.with_lock([&] {
            PyObject* result = PyObject_CallFunction(callback.ptr(), "LLLifN", static_cast<long long>(s.source),
                                                     static_cast<long long>(s.sample), static_cast<long long>(s.step),
                                                     static_cast<int>(s.token), static_cast<double>(s.log_prob),
                                                     PyBool_FromLong(s.last));
            if (result) stop = PyObject_IsTrue(result);
            Py_XDECREF(result);
            return stop >= 0;
          });
          return stop > 0;
        };
      return janus_fast::beam_search(model(), w.workspace, w.team, sources, options, begun.get());
    });
  }

  py::list semi_nar(const IntArray& source, const IntArray& offsets, const py::dict& given, const py::object& check,
                    const py::object& prefixes, const py::object& words) {
    auto options = options_of<SemiAutoregressiveOptions>(given);
    const int64_t longest = longest_of(options);
    within("Decoder: block_length", options.block_length, 1, kMost);
    if (!model().config.two_stream)
      refuse("Decoder: model must have two streams to decode in blocks; it is an ordinary Transformer");
    const Ids sources = sources_of(source, offsets, 2 * options.block_length + 1);
    const Targets begun = targets_of("prefixes", prefixes, sources, longest), allowed = words_of(words, sources);
    options.words = allowed.get();
    return decode(check, [&](Worker& w, WithoutGil&) {
      return janus_fast::semi_nar(model(), w.workspace, w.team, sources, options, begun.get());
    });
  }

  py::list speculative(const IntArray& source, const IntArray& offsets, const py::dict& given, const py::object& check,
                       const py::object& prefixes, const py::object& words, const py::object& drafts) {
    auto options = options_of<SpeculativeOptions>(given);
    const int64_t longest = longest_of(options);
    within("Decoder: draft_length", options.draft_length, 0, kMost);
    require(options.draft_threshold >= 0 && options.draft_threshold <= 1, "Decoder: draft_threshold", "be in [0, 1]",
            options.draft_threshold);
    require(options.drafter != "model" || model().config.two_stream, "Decoder: drafter",
            "not be model with an ordinary Transformer", options.drafter);
    require(options.drafter != "source" || model().config.share_all_embeddings, "Decoder: drafter",
            "not be source where vocabularies differ", options.drafter);
    const int64_t ahead = model().config.streams_ahead;
    const Ids sources = sources_of(source, offsets, std::max(options.draft_length + 2, (ahead + 1) * (ahead + 2)));
    const Targets begun = targets_of("prefixes", prefixes, sources, longest), allowed = words_of(words, sources);
    options.words = allowed.get();
    const Targets guessed = targets_of("drafts", drafts, sources, kMostInteger);
    return decode(check, [&](Worker& w, WithoutGil&) {
      return janus_fast::speculative(model(), w.workspace, w.team, sources, options, begun.get(), guessed.get());
    });
  }

  std::vector<std::vector<float>> score(const IntArray& source, const IntArray& offsets, const IntArray& target,
                                        const IntArray& target_offsets, int64_t step, const py::object& check) {
    const Config& config = model().config;
    within("Decoder: step", step, 0, config.max_target_positions);
    const Ids sources = sources_of(source, offsets, 1);
    const Ids targets =
        ids_of("target", target, target_offsets, config.target_vocab_size, 2, config.max_target_positions);
    require(sources.count == targets.count, "Decoder: target", "have one sequence for each source", targets.count);
    return serve(check, [&](Worker& w, WithoutGil&) {
      return step ? score_in_steps(model(), w.workspace, w.team, sources, targets, step)
                  : janus_fast::score(model(), w.workspace, w.team, sources, targets);
    });
  }

  // Seconds, of all threads together, that work and waiting took by stages since the last call. The first one begins.
  py::dict profile() {
    std::map<std::string, Profile::Time> all;
    workers().each([&](Worker& worker) {
      if (worker.workspace.profile) worker.workspace.profile->read(all);
      worker.workspace.profile = std::make_unique<Profile>();
    });
    py::dict seconds;
    for (const auto& [stage, time] : all) seconds[stage.c_str()] = py::make_tuple(time.worked, time.waited);
    return seconds;
  }

 private:
  // Those of this process. What a parent left is not touched, as somebody may have been at work there when it forked.
  Workers& workers() {
    if (workers_ && workers_->process != forks()) workers_.release();
    if (!workers_) workers_ = std::make_unique<Workers>(count_, threads_);
    return *workers_;
  }
  const Model& model() const { return *loaded_->model; }

  // The rows of both streams of all that is decoded, `kept` outputs of each source, are numbered in int32.
  Ids sources_of(const IntArray& source, const IntArray& offsets, int64_t kept) const {
    const Config& config = model().config;
    const Ids all = ids_of("source", source, offsets, config.source_vocab_size, 1, config.max_source_positions);
    const int64_t most = kMostInteger / 2 / config.max_target_positions / kept;
    require(all.count <= most, "Decoder: source", "have at most " + std::to_string(most) + " sequences", all.count);
    return all;
  }

  // Targets of sources that a call may come with.
  struct Targets {
    std::pair<IntArray, IntArray> arrays;
    Ids ids = {};
    const Ids* get() const { return ids.offsets ? &ids : nullptr; }
  };
  Targets targets_of(const char* name, const py::object& given, const Ids& sources, int64_t longest,
                     int64_t shortest = 0) const {
    Targets targets;
    if (given.is_none()) return targets;
    targets.arrays = given.cast<std::pair<IntArray, IntArray>>();
    const auto& [ids, offsets] = targets.arrays;
    targets.ids = ids_of(name, ids, offsets, model().config.target_vocab_size, shortest, longest);
    require(targets.ids.count == sources.count, std::string("Decoder: ") + name, "have one sequence for each source",
            targets.ids.count);
    return targets;
  }

  // What sources may become.
  Targets words_of(const py::object& given, const Ids& sources) const {
    const Targets words = targets_of("words", given, sources, model().config.target_vocab_size, 1);
    for (int64_t s = 0; s < words.ids.count; s++)
      for (int32_t i = words.ids.offsets[s] + 1; i < words.ids.offsets[s + 1]; i++)
        if (words.ids.ids[i - 1] >= words.ids.ids[i])
          refuse("Decoder: words must ascend, got " + std::to_string(words.ids.ids[i]));
    return words;
  }

  int64_t longest_of(const LeftToRightOptions& options) const {
    within("Decoder: max_decoding_length", options.max_decoding_length, 1, kMostInteger);
    within("Decoder: min_decoding_length", options.min_decoding_length, 0, kMostInteger);
    within("Decoder: no_repeat_ngram_size", options.no_repeat_ngram_size, 0, kMostInteger);
    require(std::abs(options.length_penalty) <= kMostPenalty, "Decoder: length_penalty", "be in [-10, 10]",
            options.length_penalty);
    return std::min(options.max_decoding_length, model().config.max_target_positions - 1);
  }

  template <typename Run>
  std::invoke_result_t<Run, Worker&, WithoutGil&> serve(const py::object& check, const Run& run) {
    Workers& workers = this->workers();
    WithoutGil unlocked;
    std::function<void()> look;
    if (!check.is_none()) look = [&unlocked, call = check.ptr()] { unlocked.look(call); };
    const Lease worker(workers, look);
    return run(*worker, unlocked);
  }

  template <typename Run>
  py::list decode(const py::object& check, const Run& run) {
    py::list all;
    for (const auto& group : serve(check, run)) {
      py::list list;
      for (const Hypothesis& h : group)
        list.append(py::make_tuple(h.ids, h.score, h.token_scores, h.iterations, h.history, h.predictions,
                                   h.prediction_scores, h.attention, arrays_of(h.logits)));
      all.append(list);
    }
    return all;
  }

  const std::shared_ptr<Loaded> loaded_;
  const int count_, threads_;
  std::unique_ptr<Workers> workers_;
};

}  // namespace

void bind_decoding(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const NotFinite& e) {
      PyErr_SetString(PyExc_FloatingPointError, e.what());
    } catch (const NotStarted& e) {
      PyErr_SetString(PyExc_OSError, e.what());
    } catch (const Raised&) {
    }
  });
  py::class_<Loaded, std::shared_ptr<Loaded>>(m, "Model", "A model's weights, packed.")
      .def(py::init(&load), py::arg("config"), py::arg("tensors"), py::arg("compute_type"), py::arg("isa") = "");
  py::class_<Decoder>(
      m, "Decoder",
      "Workers, each with threads and memory for a call; further calls wait for one. In a child of fork "
      "they are made anew at the first call. A call's `check`, unless None, is called ten times a second, "
      "and what it raises, or a signal's handler, ends the call.")
      .def(py::init<std::shared_ptr<Loaded>, int, int>(), py::arg("model"), py::arg("workers"), py::arg("threads"))
      .def("mask_predict", &Decoder::mask_predict, py::arg("source"), py::arg("offsets"), py::arg("options"),
           py::arg("check") = py::none(), py::kw_only(), py::arg("words") = py::none())
      .def("beam_search", &Decoder::beam_search, py::arg("source"), py::arg("offsets"), py::arg("options"),
           py::arg("check") = py::none(), py::kw_only(), py::arg("prefixes") = py::none(),
           py::arg("words") = py::none(), py::arg("uniforms") = DoubleArray(), py::arg("callback") = py::none())
      .def("semi_nar", &Decoder::semi_nar, py::arg("source"), py::arg("offsets"), py::arg("options"),
           py::arg("check") = py::none(), py::kw_only(), py::arg("prefixes") = py::none(),
           py::arg("words") = py::none())
      .def("speculative", &Decoder::speculative, py::arg("source"), py::arg("offsets"), py::arg("options"),
           py::arg("check") = py::none(), py::kw_only(), py::arg("prefixes") = py::none(),
           py::arg("words") = py::none(), py::arg("drafts") = py::none())
      .def("profile", &Decoder::profile,
           "Seconds by stage, (work, waiting for other threads), of all threads together, since the last call; the "
           "first call begins. A RuntimeError while something is decoded.")
      .def("score", &Decoder::score, py::arg("source"), py::arg("offsets"), py::arg("target"),
           py::arg("target_offsets"), py::kw_only(), py::arg("step") = 0, py::arg("check") = py::none(),
           "Log-probabilities of targets: of all tokens at once, or of `step` tokens at a time over those before.");
}

}  // namespace janus_fast
