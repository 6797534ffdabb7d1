// What the emulated driver offers to the emulated libraries.
#pragma once

#include <cstddef>
#include <functional>

namespace emulated {

using Device = unsigned long long;

// Does `work` now, or when what `stream` records is launched.
void enqueue(void* stream, std::function<void()> work);

// Whether so many bytes lie in one piece of memory that is allocated.
bool is_live(Device start, size_t bytes);

}  // namespace emulated
