// One image on its way through a network, by one thread or by several.
#pragma once

#include "runner.h"
#include "team.h"
#include "workspace.h"

namespace rexnet {

// A thread's part in the work on an image. Without phases it does everything itself.
struct Part {
  int thread = 0;
  Phases* phases = nullptr;
};

// Phases that an image takes at most.
int image_phases(const Model& model);

// Compute image `index` of a call.
void run_image(const Model& model, Workspace& workspace, const Call& call, int index, const Part& part);

}  // namespace rexnet
