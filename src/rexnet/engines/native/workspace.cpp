#include "workspace.h"

#include <algorithm>

namespace rexnet {
namespace {

// A slice must stay in the second cache (1 MiB on AMD since Zen 4, 1.25 to 2 MiB on Intel's servers, 512 KiB before)
// together with the weights and the rows of the input that fill it.
constexpr size_t kSliceBytes = 384 * 1024;
constexpr int kTasksPerThread = 2;  // so that a thread that is interrupted does not hold up the others
constexpr int kLeastRows = 4;       // of a strip: its neighbours compute kernel - stride rows again

int convolved(int size, int kernel, int dilation, int stride) {
  const int border = kernel / 2 * dilation;
  return (size + 2 * border - dilation * (kernel - 1) - 1) / stride + 1;
}

size_t slice_bytes(const Block& block, int width, int rows, const Kernels& kernels) {
  const int border = block.kernel / 2 * block.dilation;
  const size_t height = size_t(rows - 1) * block.stride + 2 * border + 1;
  return height * (width + 2 * border) * std::min(block.expanded, kernels.panel) * sizeof(float);
}

BlockShape cut(const Block& block, int height, int width, int threads, const Kernels& kernels) {
  BlockShape shape{};
  shape.height = height, shape.width = width;
  shape.out_height = convolved(height, block.kernel, block.dilation, block.stride);
  shape.out_width = convolved(width, block.kernel, block.dilation, block.stride);
  int strips = 1;
  const auto rows = [&] { return (shape.out_height + strips - 1) / strips; };
  while (rows() > 1 && slice_bytes(block, width, rows(), kernels) > kSliceBytes) ++strips;
  if (threads > 1) {
    const int panels = kernels.panels(block.expanded);
    while (panels * strips < kTasksPerThread * threads && (shape.out_height + strips) / (strips + 1) >= kLeastRows) {
      ++strips;
    }
  }
  shape.strip_rows = rows();
  shape.strips = (shape.out_height + shape.strip_rows - 1) / shape.strip_rows;
  return shape;
}

}  // namespace

Workspace::Workspace(const Model& model, int height, int width, int threads)
    : height(height), width(width), threads(threads) {
  const Kernels& kernels = model.kernels;
  stem_height = convolved(height, 3, 1, model.stem.stride);
  stem_width = convolved(width, 3, 1, model.stem.stride);
  // One pixel of border on the left, and on the right what the last tile of a row reads.
  pitch = std::max(width, round_up(stem_width, kernels.rows) * model.stem.stride) + 2;

  size_t map = 0, filtered = 0, sums = 0, area = 0;
  int stem_task = kStemRows;
  if (!model.stem_is_part_of_block()) map = size_t(stem_height) * stem_width * model.stem.channels;
  int vector = std::max(model.hidden.outputs, round_up(model.features, kGroup)), gates = 0, squeezed = 0;
  int h = stem_height, w = stem_width;
  for (const Block& block : model.blocks) {
    const BlockShape shape = cut(block, h, w, threads, kernels);
    h = shape.out_height, w = shape.out_width;
    const size_t pixels = size_t(h) * w;
    shapes.push_back(shape);
    map = std::max(map, pixels * block.out);
    filtered = std::max(filtered, pixels * block.expanded);
    sums = std::max(sums, size_t(h) * block.expanded);
    area = std::max(area, slice_bytes(block, shape.width, shape.strip_rows, kernels));
    area = std::max(area, size_t(2) * kernels.rows * block.expanded * kernels.map_bytes);
    if (block.has_gate) {
      gates = std::max(gates, block.expanded);
      squeezed = std::max(squeezed, block.squeeze.outputs);
    }
  }
  last_pixels = h * w;
  if (model.stem_is_part_of_block()) {
    const Block& first = model.blocks[0];
    stem_task = (shapes[0].strip_rows - 1) * first.stride + first.kernel / 2 * first.dilation * 2 + 1;
  }
  const size_t planes = size_t(model.stem.image_channels) * stem_rows(model.stem, stem_task) * pitch;
  area = std::max(area, size_t(kernels.rows) * kernels.panel * kernels.map_bytes);
  vector = std::max({vector, gates, squeezed});
  for (auto& each : maps) each = arena.get<char>(map * kernels.map_bytes);
  for (int turn = 0; turn < 2; ++turn) bytes[turn] = kernels.has_bytes ? arena.get<char>(map) : maps[turn];
  expanded = arena.get<char>(filtered * kernels.map_bytes);
  row_sums = arena.get<float>(sums);
  pooled = arena.get<float>(round_up(model.features, kGroup));
  hidden = arena.get<float>(model.hidden.outputs);
  logits = arena.get<float>(model.classifier.outputs);
  for (int thread = 0; thread < threads; ++thread) {
    scratch.push_back({arena.get<char>(area), arena.get<char>(vector * kernels.map_bytes), arena.get<float>(gates),
                       arena.get<float>(squeezed), arena.get<float>(gates), arena.get<float>(planes)});
  }
}

}  // namespace rexnet
