// Stands in for libnccl.so.2 between processes of one machine: the calls that the worker makes, with a communicator that
// does not block, and as much of NCCL's severity as shows in a first run. What is called out of turn ends the process;
// what NCCL refuses is refused in its words; a peer that has died is waited for without end, until the communicator is
// aborted.
//
// By the environment: REHEARSAL_NCCL (22809 for 2.28.9), REHEARSAL_NCCL_FULL (the sum from which on it finds no memory),
// REHEARSAL_ID_MS (how long an id takes to make, which it then says aloud), and NCCL_HOSTID.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <utility>

#include "device.h"

using namespace rehearsal;

extern "C" int rehearsal_gpu();

namespace {

enum : int { GOOD = 0, CUDA_FAILED = 1, SYSTEM_FAILED = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, IN_PROGRESS = 7 };
enum : int { KIND_F32 = 7, KIND_BF16 = 9 };

constexpr int MOST_RANKS = 4;
// Bytes of a message at most: of the file that all ranks map, only what is written takes memory.
constexpr size_t ROOM = size_t{64} << 20;

// One direction between two ranks, or what a rank puts in for a sum.
struct Letter {
    std::atomic<uint64_t> sent, taken;
    uint64_t bytes;
};

struct Shared {
    std::atomic<int> joined;
    char gpu[MOST_RANKS][80];
    // How many sums each rank has asked for.
    std::atomic<uint64_t> asked[MOST_RANKS];
    Letter sums[MOST_RANKS], letters[MOST_RANKS][MOST_RANKS];
    alignas(4096) char data[(MOST_RANKS + MOST_RANKS * MOST_RANKS) * ROOM];

    char* sum(int rank) { return data + static_cast<size_t>(rank) * ROOM; }
    char* letter(int from, int to) { return data + (MOST_RANKS + static_cast<size_t>(from) * MOST_RANKS + to) * ROOM; }
};

struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

struct UniqueId {
    char name[128];
};

struct Message {
    bool is_sent;
    char* place;
    size_t bytes;
    int peer;
    void* stream;
    bool is_done = false;
};

// One of a group of sums: the root's place for it is written.
struct Reduction {
    const char* from;
    char* to;
    size_t count;
    int kind;
    bool is_root;
    uint64_t number;
    void* stream;
    bool is_put = false;
};

// What a communicator is, for as long as any work is left that belongs to it.
struct Comm {
    Shared* shared = nullptr;
    int rank = 0, ranks = 0;
    std::atomic<int> state{IN_PROGRESS}, open{0}, inside{0};
    std::atomic<bool> is_aborted{false}, is_over{false};
    uint64_t sums = 0, sent[MOST_RANKS] = {}, taken[MOST_RANKS] = {};
    std::string words;
};

}  // namespace

struct ncclComm {
    std::shared_ptr<Comm> comm = std::make_shared<Comm>();
};

namespace {

thread_local int groups = 0;
thread_local ncclComm* grouped = nullptr;
thread_local std::vector<Message> messages;
thread_local std::vector<Reduction> reductions;
std::string last_words;

void pause_a_little() { std::this_thread::sleep_for(std::chrono::microseconds(200)); }

// A call with a communicator: it must be alive, and no other thread may be in one.
struct Call {
    std::shared_ptr<Comm> comm;
    explicit Call(ncclComm* handle) : comm(handle->comm) {
        if (comm->is_over) misused("a communicator is used after its end");
        if (comm->inside++ != 0) misused("two threads call with one communicator");
    }
    ~Call() { comm->inside--; }
};

void fail(Comm& comm, int code, const std::string& words) {
    comm.words = last_words = words;
    comm.state = code;
}

Shared* map(const std::string& name, bool is_new) {
    const int file = shm_open(name.c_str(), O_RDWR | (is_new ? O_CREAT | O_EXCL : 0), 0600);
    if (file < 0 || (is_new && ftruncate(file, sizeof(Shared)) != 0)) return nullptr;
    void* all = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
    return all == MAP_FAILED ? nullptr : static_cast<Shared*>(all);
}

// This rank's host and GPU: NCCL takes two ranks of one for a mistake.
std::string gpu() {
    char host[40] = {};
    gethostname(host, sizeof(host) - 1);
    const char* id = std::getenv("NCCL_HOSTID");
    return std::string(id != nullptr ? id : host).substr(0, 60) + "/" + std::to_string(rehearsal_gpu());
}

void join(std::shared_ptr<Comm> comm, std::string name) {
    Shared& shared = *comm->shared;
    shared.joined++;
    while (shared.joined < comm->ranks) {
        if (comm->is_aborted) return;
        pause_a_little();
    }
    if (comm->rank == 0) shm_unlink(name.c_str());
    for (int other = 0; other < comm->ranks; other++) {
        if (other == comm->rank || std::strcmp(shared.gpu[other], shared.gpu[comm->rank]) != 0) continue;
        return fail(*comm, INVALID_USAGE, "Duplicate GPU detected : rank " + std::to_string(comm->rank) + " and rank " +
                                              std::to_string(other) + " both on CUDA device 1000");
    }
    comm->state = GOOD;
}

// Begins work of a communicator on a stream, from a thread of the library's own, as NCCL does where it does not block. The
// first sum connects the ranks, for which all of them must have asked for it.
int begin(const std::shared_ptr<Comm>& comm, void* stream, Work work) {
    comm->state = IN_PROGRESS;
    comm->open++;
    std::thread([comm, stream, work] {
        pause_a_little();
        for (int rank = 0; rank < comm->ranks && comm->sums == 1; rank++) {
            while (comm->shared->asked[rank] == 0 && !comm->is_aborted) pause_a_little();
        }
        enqueue(stream, [comm, work] {
            const bool is_done = comm->is_aborted || work();
            if (is_done) comm->open--;
            return is_done;
        });
        int expected = IN_PROGRESS;
        comm->state.compare_exchange_strong(expected, GOOD);
    }).detach();
    return IN_PROGRESS;
}

int ready(const Comm& comm) {
    if (context() == nullptr) misused("NCCL is called from a thread without a context");
    if (comm.state == GOOD) return GOOD;
    last_words = "Attempt to use communicator before the previous operation returned ncclSuccess";
    return comm.state == IN_PROGRESS ? INVALID_ARGUMENT : comm.state.load();
}

// Adds what all ranks have put in, in the order of ranks.
template <class T>
void add_up(Shared& shared, int ranks, char* to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float total = 0.0f;
        for (int rank = 0; rank < ranks; rank++) {
            const T value = reinterpret_cast<T*>(shared.sum(rank))[i];
            if constexpr (sizeof(T) == 4) total += value;
            else total += from_bf16(value);
        }
        if constexpr (sizeof(T) == 4) reinterpret_cast<T*>(to)[i] = total;
        else reinterpret_cast<T*>(to)[i] = to_bf16(total);
    }
}

// What NCCL writes of each channel that it connects, here of a ring's only one.
void tell_ways(const Comm& comm) {
    const char *level = std::getenv("NCCL_DEBUG"), *file = std::getenv("NCCL_DEBUG_FILE");
    if (level == nullptr || std::strcmp(level, "INFO") != 0 || file == nullptr) return;
    std::FILE* log = std::fopen(file, "a");
    if (log == nullptr) return;
    const int next = (comm.rank + 1) % comm.ranks;
    std::fprintf(log, "host:%d:%d [0] NCCL INFO Channel 00 : %d[0] -> %d[0] via SHM/direct/direct\n", getpid(), getpid(),
                 comm.rank, next);
    std::fclose(log);
}

// One step of a sum: `put` says whether this rank's part is there. Where it is not for this rank, `to` is null.
bool sum(Comm& comm, uint64_t number, bool& put, const char* from, char* to, size_t count, int kind) {
    Shared& shared = *comm.shared;
    const size_t bytes = count * (kind == KIND_F32 ? 4 : 2);
    for (int rank = 0; rank < comm.ranks && !put; rank++)
        if (shared.sums[rank].taken < number - 1) return false;
    if (!put) {
        std::memcpy(shared.sum(comm.rank), from, bytes);
        shared.sums[comm.rank].bytes = bytes;
        shared.sums[comm.rank].sent = number;
        put = true;
    }
    for (int rank = 0; rank < comm.ranks; rank++) {
        if (shared.sums[rank].sent < number) return false;
        if (shared.sums[rank].bytes != bytes) misused("ranks sum different numbers of elements");
    }
    if (to != nullptr && kind == KIND_F32) add_up<float>(shared, comm.ranks, to, count);
    else if (to != nullptr) add_up<uint16_t>(shared, comm.ranks, to, count);
    shared.sums[comm.rank].taken = number;
    return true;
}

// One step of a group of messages: those of two ranks in their order, none waiting for another pair's.
bool exchange(Comm& comm, std::vector<Message>& all) {
    Shared& shared = *comm.shared;
    bool is_done = true;
    bool held[2][MOST_RANKS] = {};
    for (Message& message : all) {
        bool& waits = held[message.is_sent][message.peer];
        if (message.is_done || waits) continue;
        const int from = message.is_sent ? comm.rank : message.peer, to = message.is_sent ? message.peer : comm.rank;
        Letter& letter = shared.letters[from][to];
        const bool is_full = letter.sent != letter.taken;
        if (is_full == message.is_sent) {
            waits = true;
            is_done = false;
        } else if (message.is_sent) {
            std::memcpy(shared.letter(from, to), message.place, message.bytes);
            letter.bytes = message.bytes;
            letter.sent++;
            message.is_done = true;
        } else {
            if (letter.bytes != message.bytes) misused("a message has another length than its receiver expects");
            std::memcpy(message.place, shared.letter(from, to), message.bytes);
            letter.taken++;
            message.is_done = true;
        }
    }
    return is_done;
}

int post(bool is_sent, char* place, size_t count, int kind, int peer, ncclComm* handle, void* stream) {
    if (kind != KIND_F32 || peer < 0 || peer >= handle->comm->ranks || peer == handle->comm->rank || groups == 0) {
        misused("a message that the worker does not send");
    }
    if (grouped != nullptr && grouped != handle) misused("a group of two communicators");
    if (const int code = ready(*handle->comm)) return code;
    if (count * 4 > ROOM) misused("a message is too long for a rehearsal");
    grouped = handle;
    messages.push_back(Message{is_sent, place, count * 4, peer, stream});
    return GOOD;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
    *version = static_cast<int>(setting("REHEARSAL_NCCL", 22809));
    return GOOD;
}

int ncclGetUniqueId(UniqueId* id) {
    static std::atomic<int> made{0};
    if (const long wait = setting("REHEARSAL_ID_MS", 0)) {
        std::fprintf(stderr, "rehearsal: process %d makes an id\n", getpid());
        std::this_thread::sleep_for(std::chrono::milliseconds(wait));
    }
    std::memset(id, 0, sizeof(*id));
    std::snprintf(id->name, sizeof(id->name), "/medley-rehearsal-%d-%d", getpid(), ++made);
    const Shared* shared = map(id->name, true);
    if (shared == nullptr) return SYSTEM_FAILED;
    munmap(const_cast<Shared*>(shared), sizeof(Shared));
    return GOOD;
}

int ncclCommInitRankConfig(ncclComm** handle, int ranks, UniqueId id, int rank, const Config* config) {
    if (context() == nullptr) misused("a group is joined by a thread without a context");
    if (config->magic != 0xcafebeefu || config->size < 80 || config->version < 21700 || config->blocking != 0) {
        misused("a configuration that NCCL does not know");
    }
    if (setting("NCCL_COMM_BLOCKING", 0) != 0) misused("what the machine has set goes before the configuration: calls block");
    if (rank < 0 || rank >= ranks || ranks > MOST_RANKS) return INVALID_ARGUMENT;
    *handle = new ncclComm;
    auto comm = (*handle)->comm;
    comm->rank = rank;
    comm->ranks = ranks;
    comm->shared = map(id.name, false);
    if (comm->shared == nullptr) {
        fail(*comm, SYSTEM_FAILED, "Call to connect failed");
        return SYSTEM_FAILED;
    }
    std::snprintf(comm->shared->gpu[rank], sizeof(Shared::gpu[0]), "%s", gpu().c_str());
    std::thread(join, comm, std::string(id.name)).detach();
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(ncclComm* handle, int* state) {
    const Call call(handle);
    *state = call.comm->state;
    return GOOD;
}

// The number of a sum that is asked for.
static uint64_t ask(Comm& comm, size_t count, int kind, int operation) {
    if (operation != 0 || (kind != KIND_F32 && kind != KIND_BF16)) misused("a sum that the worker does not ask for");
    if (count * 4 > ROOM) misused("a sum is too long for a rehearsal");
    const uint64_t number = ++comm.sums;
    comm.shared->asked[comm.rank] = number;
    if (number == 1) tell_ways(comm);
    return number;
}

// In a group alone, of such; the place of another than the root stays as it is.
int ncclReduce(const char* from, char* to, size_t count, int kind, int operation, int root, ncclComm* handle, void* stream) {
    const Call call(handle);
    const auto comm = call.comm;
    if (groups == 0 || root < 0 || root >= comm->ranks || !messages.empty()) misused("a sum for a rank that the worker does not ask for");
    if (grouped != nullptr && grouped != handle) misused("a group of two communicators");
    if (reductions.empty()) {
        if (const int code = ready(*comm)) return code;
    }
    grouped = handle;
    const uint64_t number = ask(*comm, count, kind, operation);
    reductions.push_back(Reduction{from, to, count, kind, root == comm->rank, number, stream});
    return GOOD;
}

int ncclAllReduce(const char* from, char* to, size_t count, int kind, int operation, ncclComm* handle, void* stream) {
    const Call call(handle);
    const auto comm = call.comm;
    if (const int code = ready(*comm)) return code;
    if (groups != 0) misused("a sum that the worker does not ask for");
    const uint64_t number = ask(*comm, count, kind, operation);
    if (const long full = setting("REHEARSAL_NCCL_FULL", 0); full > 0 && number >= static_cast<uint64_t>(full)) {
        unsetenv("REHEARSAL_NCCL_FULL");
        fail(*comm, CUDA_FAILED, "Cuda failure 2 'out of memory'");
        return CUDA_FAILED;
    }
    const auto put = std::make_shared<bool>(false);
    return begin(comm, stream, [=] { return sum(*comm, number, *put, from, to, count, kind); });
}

int ncclGroupStart() {
    groups++;
    return GOOD;
}

int ncclSend(const char* from, size_t count, int kind, int peer, ncclComm* handle, void* stream) {
    const Call call(handle);
    return post(true, const_cast<char*>(from), count, kind, peer, handle, stream);
}

int ncclRecv(char* to, size_t count, int kind, int peer, ncclComm* handle, void* stream) {
    const Call call(handle);
    return post(false, to, count, kind, peer, handle, stream);
}

int ncclGroupEnd() {
    if (groups-- == 0) return INVALID_USAGE;
    if (groups > 0 || (messages.empty() && reductions.empty())) return GOOD;
    const auto comm = std::exchange(grouped, nullptr)->comm;
    if (!reductions.empty()) {
        const auto sums = std::make_shared<std::vector<Reduction>>(std::move(reductions));
        reductions.clear();
        return begin(comm, sums->front().stream, [=] {
            for (Reduction& one : *sums) {
                if (comm->shared->sums[comm->rank].taken >= one.number) continue;
                if (!sum(*comm, one.number, one.is_put, one.from, one.is_root ? one.to : nullptr, one.count, one.kind)) return false;
            }
            return true;
        });
    }
    const auto all = std::make_shared<std::vector<Message>>(std::move(messages));
    messages.clear();
    return begin(comm, all->front().stream, [=] { return exchange(*comm, *all); });
}

int ncclCommFinalize(ncclComm* handle) {
    const Call call(handle);
    const auto comm = call.comm;
    if (const int code = ready(*comm)) return code;
    comm->state = IN_PROGRESS;
    std::thread([comm] {
        while (comm->open > 0 && !comm->is_aborted) pause_a_little();
        comm->state = GOOD;
    }).detach();
    return IN_PROGRESS;
}

static int end(ncclComm* handle) {
    handle->comm->is_over = true;
    delete handle;
    return GOOD;
}

int ncclCommDestroy(ncclComm* handle) {
    const Call call(handle);
    return end(handle);
}

// From a thread without a context, it would open one on the first GPU of all.
int ncclCommAbort(ncclComm* handle) {
    if (context() == nullptr) misused("a communicator is aborted by a thread without a context");
    const Call call(handle);
    call.comm->is_aborted = true;
    return end(handle);
}

const char* ncclGetErrorString(int code) {
    switch (code) {
        case CUDA_FAILED: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case SYSTEM_FAILED: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case INVALID_ARGUMENT: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case INVALID_USAGE: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        default: return "no error";
    }
}

const char* ncclGetLastError(ncclComm* handle) { return handle != nullptr ? handle->comm->words.c_str() : last_words.c_str(); }

}  // extern "C"
