// Streams and events, and the thread that does their work: part of the stand-in for libcuda.so.1.

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "device.h"

namespace rehearsal {

Device& device() {
    static Device* device = new Device;
    return *device;
}

void*& context() {
    thread_local void* context = nullptr;
    return context;
}

// Does the streams' work, one piece at a time.
static void work_on() {
    Device& gpu = device();
    std::mt19937 random(static_cast<unsigned>(setting("REHEARSAL_SEED", 1)));
    std::unique_lock<std::mutex> guard(gpu.lock);
    for (;;) {
        std::vector<Stream*> busy;
        for (Stream* stream : gpu.streams)
            if (!stream->work.empty()) busy.push_back(stream);
        std::shuffle(busy.begin(), busy.end(), random);
        bool done = false;
        for (Stream* stream : busy) {
            rehearsal::Work& next = stream->work.front();
            guard.unlock();
            done = next();
            guard.lock();
            if (!done) continue;
            stream->work.pop_front();
            gpu.moved.notify_all();
            break;
        }
        if (done) continue;
        // Work that waits for another process looks again; all else is told of.
        if (busy.empty()) gpu.moved.wait(guard);
        else gpu.moved.wait_for(guard, std::chrono::microseconds(50));
    }
}

void add(Stream* stream, rehearsal::Work work) {
    Device& gpu = device();
    std::lock_guard<std::mutex> guard(gpu.lock);
    if (stream->recorded != nullptr) misused("a stream that records is asked for something else than a kernel");
    if (std::find(gpu.streams.begin(), gpu.streams.end(), stream) == gpu.streams.end()) misused("a stream that is gone");
    stream->work.push_back(std::move(work));
    if (!gpu.runs) std::thread(work_on).detach();
    gpu.runs = true;
    gpu.moved.notify_all();
}

void launch(Stream* stream, Work work) {
    if (stream->recorded == nullptr) add(stream, std::move(work));
    else stream->recorded->push_back(std::move(work));
}

struct Graph {
    std::vector<Work> work;
};

using Clock = std::chrono::steady_clock;

struct Event {
    Mark mark;
    bool is_timed = false;
    // When the stream has come to it.
    std::shared_ptr<std::atomic<Clock::rep>> time;
};

static void wait_for(Stream* stream) {
    Device& gpu = device();
    std::unique_lock<std::mutex> guard(gpu.lock);
    gpu.moved.wait(guard, [&] { return stream->work.empty(); });
}

}  // namespace rehearsal

using namespace rehearsal;

extern "C" {

Result cuCtxSynchronize() {
    std::vector<Stream*> streams;
    {
        std::lock_guard<std::mutex> guard(device().lock);
        streams = device().streams;
    }
    for (Stream* stream : streams) wait_for(stream);
    return state();
}

Result cuStreamCreate(Stream** stream, unsigned) {
    if (const Result code = state()) return code;
    *stream = new Stream;
    std::lock_guard<std::mutex> guard(device().lock);
    device().streams.push_back(*stream);
    return SUCCESS;
}

// Priorities change no order that anything may rely on.
Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return state();
}

Result cuStreamCreateWithPriority(Stream** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

// What was enqueued is still done; the object stays, as nobody counts who knows it.
Result cuStreamDestroy_v2(Stream* stream) {
    wait_for(stream);
    std::lock_guard<std::mutex> guard(device().lock);
    auto& streams = device().streams;
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    return SUCCESS;
}

Result cuStreamSynchronize(Stream* stream) {
    if (const Result code = state()) return code;
    if (stream->recorded != nullptr) misused("a stream that records is waited for");
    wait_for(stream);
    return state();
}

Result cuStreamBeginCapture_v2(Stream* stream, int) {
    if (const Result code = state()) return code;
    if (stream->recorded != nullptr) misused("a recording in a recording");
    stream->recorded = std::make_unique<std::vector<Work>>();
    return SUCCESS;
}

Result cuStreamEndCapture(Stream* stream, Graph** graph) {
    if (stream->recorded == nullptr) misused("the end of a recording that was not begun");
    *graph = new Graph{std::move(*stream->recorded)};
    stream->recorded = nullptr;
    return state();
}

Result cuGraphInstantiateWithFlags(Graph** made, const Graph* graph, unsigned long long) {
    *made = new Graph(*graph);
    return state();
}

Result cuGraphLaunch(Graph* graph, Stream* stream) {
    if (const Result code = state()) return code;
    for (const Work& work : graph->work) add(stream, work);
    return SUCCESS;
}

Result cuGraphExecDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}

Result cuGraphDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}

Result cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    if (const Result code = state()) return code;
    // As if the worker had not asked: what that would do must show.
    if (setting("REHEARSAL_DEAF", 0) != 0) return SUCCESS;
    if (const Mark mark = event->mark) add(stream, [mark] { return mark->load(); });
    return SUCCESS;
}

Result cuEventCreate(Event** event, unsigned flags) {
    *event = new Event;
    // CU_EVENT_DISABLE_TIMING
    (*event)->is_timed = (flags & 2) == 0;
    return state();
}

Result cuEventRecord(Event* event, Stream* stream) {
    if (const Result code = state()) return code;
    const Mark mark = event->mark = std::make_shared<std::atomic<bool>>(false);
    const auto time = event->time = std::make_shared<std::atomic<Clock::rep>>(0);
    add(stream, [mark, time] {
        *time = Clock::now().time_since_epoch().count();
        return *mark = true;
    });
    return SUCCESS;
}

Result cuEventSynchronize(Event* event) {
    Device& gpu = device();
    std::unique_lock<std::mutex> guard(gpu.lock);
    gpu.moved.wait(guard, [&] { return event->mark == nullptr || *event->mark; });
    return gpu.failure;
}

Result cuEventElapsedTime_v2(float* milliseconds, const Event* start, const Event* end) {
    if (!start->is_timed || !end->is_timed || start->mark == nullptr || end->mark == nullptr) return INVALID_HANDLE;
    if (!*start->mark || !*end->mark) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(Clock::duration(*end->time - *start->time)).count();
    return SUCCESS;
}

Result cuEventQuery(Event* event) {
    if (device().failure) return device().failure;
    return event->mark == nullptr || *event->mark ? SUCCESS : NOT_READY;
}

Result cuEventDestroy_v2(Event* event) {
    delete event;
    return SUCCESS;
}

}  // extern "C"
