// The part of NVIDIA's driver that this project uses, for cards that are the CPU.
//
// It is stricter than a card where that finds mistakes: fresh and freed memory is not a number, memory has
// guards at both ends, copies must stay in one allocation, and nothing but kernels may be recorded. It is as late
// as a card may be: what it is asked for is done when somebody waits for it.
//
// EMULATED_CARDS, EMULATED_CARD_MEMORY (bytes) and EMULATED_CARD_CAPABILITY ("8.0") say what is there. With
// EMULATED_CARD_REPORT, a file, the process leaves there what was asked of the card.
#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>

#include "card.h"
#include "emulate.h"

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

constexpr size_t GUARD = 64;
constexpr unsigned char NOT_A_NUMBER = 0xff, GUARDING = 0xa5;

struct Context {
    int ordinal;
};
struct Stream {
    bool records = false, failed = false;
    std::vector<std::function<void()>> work;
};
struct Graph {
    std::vector<std::function<void()>> work;
    // What is done when its last launch is.
    size_t last = 0;
};
struct Function {
    emulated::Pack pack;
    std::string name;
};

std::recursive_mutex mutex;
std::map<emulated::Device, size_t> live;
size_t used = 0;
thread_local Context* bound = nullptr;
Context contexts[16];

size_t setting(const char* name, size_t otherwise) {
    const char* value = std::getenv(name);
    return value ? std::strtoull(value, nullptr, 10) : otherwise;
}
int cards() { return int(setting("EMULATED_CARDS", 2)); }
size_t memory() { return setting("EMULATED_CARD_MEMORY", size_t(4) << 30); }

Stream* stream_of(void* stream) {
    static Stream ordinary;
    return stream ? static_cast<Stream*>(stream) : &ordinary;
}

// What was asked for and not yet done, of all streams; and how much was done.
std::deque<std::function<void()>> asked;
size_t done = 0;

void do_first(size_t last) {
    while (done < last) {
        auto work = std::move(asked.front());
        asked.pop_front();
        done++;
        work();
    }
}
void do_all() {
    std::lock_guard lock(mutex);
    do_first(done + asked.size());
}

struct Event {
    size_t last = 0;
};

// Memory of the host that copies are late with.
std::map<char*, size_t> pinned;

bool is_pinned(const void* start) {
    auto* at = static_cast<const char*>(start);
    auto after = pinned.upper_bound(const_cast<char*>(at));
    return after != pinned.begin() && at < std::prev(after)->first + std::prev(after)->second;
}

// What was asked for; `ahead`: how often somebody waited when more was asked for than that.
struct Counts {
    size_t launches = 0, graphs = 0, recorded = 0, refused = 0;
    size_t uploads = 0, downloads = 0, copies = 0, allocations = 0, ahead = 0;
    size_t pinned = 0;  // of the host's memory

    ~Counts() {
        const char* path = std::getenv("EMULATED_CARD_REPORT");
        std::FILE* file = path ? std::fopen(path, "a") : nullptr;
        if (file == nullptr || launches + graphs == 0) return;
        std::fprintf(file, "{\"launches\": %zu, \"graphs\": %zu, \"recorded\": %zu, \"refused\": %zu, ",
                     launches, graphs, recorded, refused);
        std::fprintf(file, "\"uploads\": %zu, \"downloads\": %zu, \"copies\": %zu, ", uploads, downloads, copies);
        std::fprintf(file, "\"allocations\": %zu, \"pinned\": %zu, \"ahead\": %zu}\n", allocations, pinned,
                     ahead);
        std::fclose(file);
    }
} counts;

// What may not be recorded ends a recording.
bool refuses(void* stream) {
    Stream* on = stream_of(stream);
    if (on->records) on->failed = true, counts.refused++;
    return on->records;
}

bool is_guarded(const unsigned char* guard) {
    return std::all_of(guard, guard + GUARD, [](unsigned char byte) { return byte == GUARDING; });
}

void check_guards(emulated::Device start, size_t bytes) {
    auto* memory = reinterpret_cast<unsigned char*>(start);
    if (!is_guarded(memory - GUARD)) emulated::fail("a kernel wrote before its memory");
    if (!is_guarded(memory + bytes)) emulated::fail("a kernel wrote behind its memory");
}

int allocate(emulated::Device* start, size_t bytes) {
    std::lock_guard lock(mutex);
    do_all();
    if (bytes == 0) return INVALID_VALUE;
    if (used + bytes > memory()) return OUT_OF_MEMORY;
    counts.allocations++;
    void* whole = nullptr;
    if (posix_memalign(&whole, 256, bytes + 256 + GUARD) != 0) return OUT_OF_MEMORY;
    auto* memory = static_cast<unsigned char*>(whole) + 256;
    std::memset(memory - GUARD, GUARDING, GUARD);
    std::memset(memory, NOT_A_NUMBER, bytes);
    std::memset(memory + bytes, GUARDING, GUARD);
    *start = reinterpret_cast<emulated::Device>(memory);
    live[*start] = bytes;
    used += bytes;
    return SUCCESS;
}

int release_memory(emulated::Device start) {
    std::lock_guard lock(mutex);
    do_all();
    auto found = live.find(start);
    if (found == live.end()) return INVALID_VALUE;
    check_guards(start, found->second);
    auto* memory = reinterpret_cast<unsigned char*>(start);
    std::memset(memory, NOT_A_NUMBER, found->second);
    used -= found->second;
    live.erase(found);
    std::free(memory - 256);
    return SUCCESS;
}

int copy(void* to, const void* from, size_t bytes, void* stream, bool to_card, bool from_card) {
    std::lock_guard lock(mutex);
    if (refuses(stream)) return CAPTURE_UNSUPPORTED;
    bool fits = !to_card || emulated::is_live(reinterpret_cast<emulated::Device>(to), bytes);
    fits = fits && (!from_card || emulated::is_live(reinterpret_cast<emulated::Device>(from), bytes));
    if (!fits) emulated::fail("a copy leaves its memory");
    (to_card ? from_card ? counts.copies : counts.uploads : counts.downloads)++;
    auto work = [=] {
        if (!to_card) {
            for (auto& [start, size] : live) check_guards(start, size);
        }
        std::memmove(to, from, bytes);
    };
    bool late = to_card ? from_card || is_pinned(from) : is_pinned(to);
    // Who reads too early finds nothing.
    if (late && !to_card) std::memset(to, NOT_A_NUMBER, bytes);
    asked.push_back(work);
    if (!late) do_all();
    return SUCCESS;
}

}  // namespace

namespace emulated {

void enqueue(void* stream, std::function<void()> work) {
    std::lock_guard lock(mutex);
    Stream* on = stream_of(stream);
    if (on->records) return on->work.push_back(std::move(work));
    counts.launches++;
    asked.push_back(std::move(work));
}

bool is_live(Device start, size_t bytes) {
    std::lock_guard lock(mutex);
    auto after = live.upper_bound(start);
    if (after == live.begin()) return false;
    auto piece = std::prev(after);
    return start + bytes <= piece->first + piece->second;
}

}  // namespace emulated

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cuInit(unsigned) { return cards() > 0 ? SUCCESS : NO_DEVICE; }
EXPORT int cuDeviceGetCount(int* count) { return *count = cards(), SUCCESS; }
EXPORT int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= cards()) return INVALID_DEVICE;
    return *device = ordinal, SUCCESS;
}
EXPORT int cuDeviceGetName(char* name, int length, int device) {
    std::snprintf(name, length, "Emulated card %d", device);
    return SUCCESS;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
    const char* capability = std::getenv("EMULATED_CARD_CAPABILITY");
    std::string version = capability ? capability : "8.0";
    switch (attribute) {
        case 75: *value = version[0] - '0'; break;  // compute capability
        case 76: *value = version[2] - '0'; break;
        case 115: *value = 1; break;  // memory pools
        default: *value = 0;
    }
    return SUCCESS;
}
EXPORT int cuDevicePrimaryCtxRetain(Context** context, int device) {
    contexts[device].ordinal = device;
    return *context = &contexts[device], SUCCESS;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORT int cuCtxDestroy_v2(Context*) { return SUCCESS; }
EXPORT int cuCtxGetCurrent(Context** context) { return *context = bound, SUCCESS; }
EXPORT int cuCtxSetCurrent(Context* context) { return bound = context, SUCCESS; }
EXPORT int cuCtxSynchronize() { return do_all(), SUCCESS; }

EXPORT int cuMemAlloc_v2(emulated::Device* start, size_t bytes) { return allocate(start, bytes); }
EXPORT int cuMemFree_v2(emulated::Device start) { return release_memory(start); }
EXPORT int cuMemAllocAsync(emulated::Device* start, size_t bytes, void* stream) {
    return refuses(stream) ? CAPTURE_UNSUPPORTED : allocate(start, bytes);
}
EXPORT int cuMemFreeAsync(emulated::Device start, void* stream) {
    return refuses(stream) ? CAPTURE_UNSUPPORTED : release_memory(start);
}
EXPORT int cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = pool, SUCCESS; }
EXPORT int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
EXPORT int cuMemGetInfo_v2(size_t* free, size_t* total) {
    return *total = memory(), *free = *total - std::min(used, *total), SUCCESS;
}
EXPORT int cuMemHostAlloc(void** start, size_t bytes, unsigned) {
    std::lock_guard lock(mutex);
    if (posix_memalign(start, 64, bytes) != 0) return OUT_OF_MEMORY;
    counts.pinned++;
    return pinned[static_cast<char*>(*start)] = bytes, SUCCESS;
}
EXPORT int cuMemFreeHost(void* start) {
    std::lock_guard lock(mutex);
    do_all();
    pinned.erase(static_cast<char*>(start));
    return std::free(start), SUCCESS;
}
EXPORT int cuMemcpyHtoDAsync_v2(emulated::Device to, const void* from, size_t bytes, void* stream) {
    return copy(reinterpret_cast<void*>(to), from, bytes, stream, true, false);
}
EXPORT int cuMemcpyDtoHAsync_v2(void* to, emulated::Device from, size_t bytes, void* stream) {
    return copy(to, reinterpret_cast<void*>(from), bytes, stream, false, true);
}
EXPORT int cuMemcpyDtoDAsync_v2(emulated::Device to, emulated::Device from, size_t bytes, void* stream) {
    return copy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, stream, true, true);
}
EXPORT int cuMemcpyPeerAsync(
    emulated::Device to, Context*, emulated::Device from, Context*, size_t bytes, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
EXPORT int cuMemsetD8Async(emulated::Device start, unsigned char value, size_t bytes, void* stream) {
    if (!emulated::is_live(start, bytes)) emulated::fail("memory is set that is not there");
    emulated::enqueue(stream, [=] { std::memset(reinterpret_cast<void*>(start), value, bytes); });
    return SUCCESS;
}

EXPORT int cuModuleLoad(void** module, const char*) { return *module = module, SUCCESS; }
EXPORT int cuModuleLoadData(void** module, const void*) { return *module = module, SUCCESS; }
EXPORT int cuModuleUnload(void*) { return SUCCESS; }
EXPORT int cuModuleGetFunction(Function** function, void*, const char* name) {
    auto found = emulated::kernels().find(name);
    if (found == emulated::kernels().end()) {
        std::fprintf(stderr, "emulated card: there is no kernel %s\n", name);
        return NOT_FOUND;
    }
    return *function = new Function{found->second, name}, SUCCESS;
}
EXPORT int cuLaunchKernel(
    Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, void* stream, void** arguments, void**) {
    if (bx * by * bz == 0 || bx * by * bz > 1024 || gx * gy * gz == 0) return INVALID_VALUE;
    if (gy > 65535 || gz > 65535 || shared > (48 << 10)) return INVALID_VALUE;
    auto work = function->pack(arguments);
    emulated::enqueue(stream, [=] { emulated::launch({gx, gy, gz}, {bx, by, bz}, shared, work); });
    return SUCCESS;
}

EXPORT int cuStreamCreate(Stream** stream, unsigned) { return *stream = new Stream, SUCCESS; }
EXPORT int cuStreamDestroy_v2(Stream* stream) { return delete stream, SUCCESS; }
EXPORT int cuStreamSynchronize(void* stream) {
    if (refuses(stream)) return CAPTURE_UNSUPPORTED;
    return do_all(), SUCCESS;
}
EXPORT int cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
EXPORT int cuEventCreate(Event** event, unsigned) { return *event = new Event, SUCCESS; }
EXPORT int cuEventDestroy_v2(Event* event) { return delete event, SUCCESS; }
EXPORT int cuEventRecord(Event* event, void*) {
    std::lock_guard lock(mutex);
    return event->last = done + asked.size(), SUCCESS;
}
EXPORT int cuEventSynchronize(Event* event) {
    std::lock_guard lock(mutex);
    do_first(event->last);
    if (!asked.empty()) counts.ahead++;
    return SUCCESS;
}

EXPORT int cuStreamBeginCapture_v2(Stream* stream, int) {
    std::lock_guard lock(mutex);
    if (stream->records) return CAPTURE_UNSUPPORTED;
    stream->records = true, stream->failed = false;
    stream->work.clear();
    return SUCCESS;
}
EXPORT int cuStreamIsCapturing(void* stream, int* status) {
    return *status = stream_of(stream)->records ? 1 : 0, SUCCESS;
}
EXPORT int cuStreamEndCapture(Stream* stream, Graph** graph) {
    std::lock_guard lock(mutex);
    stream->records = false;
    *graph = nullptr;
    if (stream->failed) return CAPTURE_INVALIDATED;
    counts.recorded++;
    *graph = new Graph{std::move(stream->work)};
    stream->work.clear();
    return SUCCESS;
}
EXPORT int cuGraphInstantiateWithFlags(Graph** made, Graph* graph, unsigned long long) {
    return *made = new Graph(*graph), SUCCESS;
}
EXPORT int cuGraphLaunch(Graph* graph, void* stream) {
    std::lock_guard lock(mutex);
    // One launch for all.
    size_t before = counts.launches;
    for (auto& work : graph->work) emulated::enqueue(stream, work);
    counts.launches = before;
    counts.graphs++;
    graph->last = done + asked.size();
    return SUCCESS;
}
EXPORT int cuGraphDestroy(Graph* graph) { return delete graph, SUCCESS; }
EXPORT int cuGraphExecDestroy(Graph* graph) {
    std::lock_guard lock(mutex);
    if (done < graph->last) emulated::fail("a recording ends that may be under way");
    return delete graph, SUCCESS;
}

EXPORT int cuGetErrorString(int result, const char** text) {
    switch (result) {
        case OUT_OF_MEMORY: *text = "out of memory"; break;
        case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
        case INVALID_DEVICE: *text = "invalid device ordinal"; break;
        case NOT_FOUND: *text = "named symbol not found"; break;
        case CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
        default: *text = "invalid argument";
    }
    return SUCCESS;
}
EXPORT int cuGetErrorName(int result, const char** text) { return cuGetErrorString(result, text); }

// For tests of single kernels, in memory of their own.
EXPORT void emulated_launch(
    const char* name, const unsigned* grid, unsigned threads, size_t shared, void** arguments) {
    auto work = emulated::kernels().at(name)(arguments);
    emulated::launch({grid[0], grid[1], grid[2]}, {threads, 1, 1}, shared, work);
}
