// Closed loops around the whole accelerator: a memory with the timing of sim/memory.py and a script of register accesses with
// sums per layer, or accesses one by one. Appended to the shim of tb/simulator.py, which has `Simulation` with its `stim_vector` and `trace_vector`.
#include <deque>
#include <utility>
#include <vector>

namespace {

// A field of a packed vector of 64-bit words.
struct Field { int64_t start, width; };

uint64_t get(const uint64_t* words, Field f) {   // up to 64 bits, in one word or two: fields of the probe lie anywhere
    int64_t word = f.start / 64, shift = f.start % 64;
    uint64_t value = words[word] >> shift;
    if (shift + f.width > 64) value |= words[word + 1] << (64 - shift);
    return f.width < 64 ? value & ((uint64_t(1) << f.width) - 1) : value;
}
void put(uint64_t* words, Field f, uint64_t value) {
    uint64_t mask = f.width < 64 ? (uint64_t(1) << f.width) - 1 : ~uint64_t(0);
    uint64_t& word = words[f.start / 64];
    word = (word & ~(mask << (f.start % 64))) | ((value & mask) << (f.start % 64));
}

// Inputs and outputs in the order of accelerator.py.
enum In { REG_VALID, REG_PAYLOAD, REG_TAKE, MREQ_READY, MWD_READY, MRD_VALID, MRD_PAYLOAD, MDONE_VALID, MDONE_PAYLOAD };
enum Out { INTERRUPT, REG_READY, ANS_VALID, ANS_PAYLOAD, MREQ_VALID, MREQ_PAYLOAD, MWD_VALID, MWD_PAYLOAD, MRD_READY, MDONE_READY,
           LAYER, CAUSE, BUSY, ANN_MATCHES, SNN_MATCHES, ADDRESS_WIDTH };

struct Fields {
    const int64_t* table;
    Field operator[](int i) const { return {table[2 * i], table[2 * i + 1]}; }
};

struct Burst { uint64_t address, lines; int64_t ready_at; uint64_t writes_before; };

// A memory with the timing of sim/memory.py. What it shows depends on what happened before the cycle only.
struct Memory {
    uint8_t* bytes;
    uint64_t lines;
    int64_t line_bytes;
    Fields in, out;
    const uint8_t* request_ready; int64_t n_request_ready;
    const uint8_t* write_ready; int64_t n_write_ready;
    const uint8_t* read_go; int64_t n_read_go;
    const int64_t* latency; int64_t n_latency;
    int64_t answer_latency, error_line, error_write;
    bool strict;                        // lines that do not exist end the simulation; else they are errors on the bus

    std::deque<Burst> reads{}, writes{};
    std::deque<std::pair<int64_t, bool>> answers{};
    uint64_t position = 0, written = 0, writes_completed = 0, writes_requested = 0, n_reads = 0;
    int64_t n_lines = 0, bad_address = -1;
    bool held = false, shown = false, done = false, failed = false;

    bool take_request(int64_t t) const { return request_ready[t % n_request_ready]; }

    // Sets the inputs of cycle t. False: a line outside would be shown.
    bool drive(int64_t t, uint64_t* stim) {
        put(stim, in[MREQ_READY], take_request(t));
        put(stim, in[MWD_READY], !writes.empty() && write_ready[t % n_write_ready]);
        shown = !reads.empty() && (held || (t >= reads.front().ready_at && read_go[t % n_read_go]
                                            && writes_completed >= reads.front().writes_before));
        if (shown) {
            uint64_t address = reads.front().address + position;
            bool outside = address >= lines;
            if (outside && strict) { bad_address = int64_t(address); return false; }
            put(stim, in[MRD_VALID], 1);
            const uint8_t* line = bytes + address * line_bytes;
            Field f = in[MRD_PAYLOAD];
            for (int64_t b = 0; b < line_bytes && !outside; b++) put(stim, Field{f.start + 8 * b, 8}, line[b]);
            if (n_lines == error_line || outside) put(stim, Field{f.start + 8 * line_bytes, 1}, 1);
        }
        done = !answers.empty() && t >= answers.front().first;
        put(stim, in[MDONE_VALID], done);
        if (done) put(stim, in[MDONE_PAYLOAD], answers.front().second);
        return true;
    }

    // Takes the outputs of cycle t. False: a request that reaches outside.
    bool observe(int64_t t, const uint64_t* stim, const uint64_t* o) {
        if (get(o, out[MREQ_VALID]) && take_request(t)) {
            const int64_t address_bits = out[ADDRESS_WIDTH].start;
            uint64_t payload = get(o, out[MREQ_PAYLOAD]);
            uint64_t address = payload & ((uint64_t(1) << address_bits) - 1), count = payload >> address_bits & 255;
            if (strict && (address + count > lines || count == 0)) { bad_address = int64_t(address); return false; }
            if (payload >> (address_bits + 8) & 1) {
                writes.push_back({address, count, 0, 0});
                writes_requested++;
            } else {
                reads.push_back({address, count, t + latency[n_reads++ % n_latency], writes_requested});
            }
        }
        if (get(o, out[MWD_VALID]) && get(stim, in[MWD_READY])) {
            uint64_t address = writes.front().address + written;
            Field f = out[MWD_PAYLOAD];
            if (address >= lines) failed = true;
            else for (int64_t b = 0; b < line_bytes; b++) bytes[address * line_bytes + b] = uint8_t(get(o, Field{f.start + 8 * b, 8}));
            if (++written == writes.front().lines) {
                written = 0;
                writes.pop_front();
                answers.push_back({t + answer_latency, failed || int64_t(writes_completed) == error_write});
                writes_completed++;
                failed = false;
            }
        }
        held = false;
        if (shown) {
            if (get(o, out[MRD_READY])) {
                n_lines++;
                if (++position == reads.front().lines) { position = 0; reads.pop_front(); }
            } else {
                held = true;
            }
        }
        if (done && get(o, out[MDONE_READY])) answers.pop_front();
        return true;
    }
};

// The accelerator as software sees it: one access to a register after the other, and the interrupt.
struct Device {
    Simulation* simulation;
    Memory memory;
    std::vector<uint64_t> stim, trace;
    int64_t t = 0;

    // One cycle; false when the design failed.
    bool step(bool valid, uint64_t request) {
        std::memset(stim.data(), 0, stim.size() * 8);
        put(stim.data(), memory.in[REG_VALID], valid);
        put(stim.data(), memory.in[REG_PAYLOAD], request);
        put(stim.data(), memory.in[REG_TAKE], 1);
        memory.drive(t, stim.data());
        memcpy(&simulation->top.stim_vector, stim.data(), sizeof simulation->top.stim_vector);
        simulation->step();
        memcpy(trace.data(), &simulation->top.trace_vector, sizeof simulation->top.trace_vector);
        if (failure[0]) return false;
        memory.observe(t++, stim.data(), trace.data());
        return true;
    }
    uint64_t output(int i) const { return get(trace.data(), memory.out[i]); }
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void* device_new(void* p, int64_t stim_words, int64_t trace_words, const int64_t* in_fields, const int64_t* out_fields,
                 uint8_t* memory, int64_t memory_lines, int64_t line_bytes, const int64_t* latency) {
    static const uint8_t always = 1;
    return new Device{static_cast<Simulation*>(p),
                      Memory{memory, uint64_t(memory_lines), line_bytes, {in_fields}, {out_fields}, &always, 1, &always, 1, &always, 1,
                             latency, 1, *latency, -1, -1, false},
                      std::vector<uint64_t>(stim_words), std::vector<uint64_t>(trace_words)};
}
void device_delete(void* p) { delete static_cast<Device*>(p); }

// An access to a register; false when there was no answer within `most` cycles.
int64_t device_access(void* p, uint64_t request, uint64_t* answer, int64_t most) {
    auto* d = static_cast<Device*>(p);
    bool waiting = false;
    for (int64_t i = 0; i < most; i++) {
        if (!d->step(!waiting, request)) return 0;
        if (d->output(ANS_VALID)) { *answer = d->output(ANS_PAYLOAD); return 1; }
        if (d->output(REG_READY)) waiting = true;
    }
    return 0;
}
// Cycles until the interrupt, at least one; -1 when there was none within `most`.
int64_t device_wait(void* p, int64_t most) {
    auto* d = static_cast<Device*>(p);
    for (int64_t i = 1; i <= most; i++) {
        if (!d->step(false, 0)) return -1;
        if (d->output(INTERRUPT)) return i;
    }
    return -1;
}

// Field tables: order as in accelerator.py. `phases`: the sequencer's when an access was taken. Memory becomes the next one of `fresh` when
// the access of that number in `fresh_at` is first offered. Returns the cycles simulated; the run ends `tail` cycles after the last scripted
// access was answered, or after `most` cycles.
int64_t accelerator_run(void* p, int64_t stim_words, int64_t trace_words, const int64_t* in_fields, const int64_t* out_fields,
                        uint8_t* memory, int64_t memory_lines, int64_t line_bytes,
                        const uint8_t* request_ready, int64_t n_request_ready, const uint8_t* write_ready, int64_t n_write_ready,
                        const uint8_t* read_go, int64_t n_read_go, const int64_t* latency, int64_t n_latency,
                        int64_t answer_latency, int64_t error_line, int64_t error_write, const uint8_t* take, int64_t n_take,
                        const uint64_t* script, const int64_t* wait, int64_t n_script, uint64_t* answers,
                        int64_t* phases, const uint8_t* fresh, const int64_t* fresh_at, int64_t n_fresh,
                        int64_t* layers, int64_t n_layers, int64_t n_causes,
                        int64_t most, int64_t tail, uint64_t* stim_out, uint64_t* trace_out, int64_t* bad_address) {
    auto* s = static_cast<Simulation*>(p);
    Fields in{in_fields}, out{out_fields};
    Memory port{memory, uint64_t(memory_lines), line_bytes, in, out, request_ready, n_request_ready, write_ready, n_write_ready,
                read_go, n_read_go, latency, n_latency, answer_latency, error_line, error_write, true};
    std::vector<uint64_t> stim(stim_words), trace(trace_words);
    int64_t access = 0, answered = 0, answered_at = -1, ended = -1, renewed = 0;
    bool interrupt = false;

    int64_t t = 0;
    for (; t < most && (ended < 0 || t < ended + tail); t++) {
        std::memset(stim.data(), 0, stim_words * 8);
        // Registers: one access after the other, each once the interrupt is up (wait -1), while the last answer still waits (-2) or some
        // cycles after it.
        bool go = access < n_script && (wait[access] == -2 || (access == answered && (wait[access] < 0 ? interrupt : t - answered_at > wait[access])));
        if (go) {
            if (renewed < n_fresh && access == fresh_at[renewed]) {
                memcpy(memory, fresh + renewed++ * memory_lines * line_bytes, memory_lines * line_bytes);
            }
            put(stim.data(), in[REG_VALID], 1);
            put(stim.data(), in[REG_PAYLOAD], script[access]);
        }
        bool taken = take[t % n_take];
        put(stim.data(), in[REG_TAKE], taken);
        if (!port.drive(t, stim.data())) { *bad_address = port.bad_address; return t; }

        memcpy(&s->top.stim_vector, stim.data(), sizeof s->top.stim_vector);
        s->step();
        memcpy(trace.data(), &s->top.trace_vector, sizeof s->top.trace_vector);
        if (failure[0]) return t;
        if (stim_out) { memcpy(stim_out, stim.data(), stim_words * 8); stim_out += stim_words; }
        if (trace_out) { memcpy(trace_out, trace.data(), trace_words * 8); trace_out += trace_words; }
        const uint64_t* o = trace.data();

        if (get(o, out[ANS_VALID]) && taken && answered < n_script) {
            answers[answered++] = get(o, out[ANS_PAYLOAD]);
            answered_at = t;
            if (answered == n_script) ended = t;
        }
        if (go && get(o, out[REG_READY])) phases[access++] = get(o, out[BUSY]);
        interrupt = get(o, out[INTERRUPT]);
        if (get(o, out[BUSY])) {
            uint64_t layer = get(o, out[LAYER]);
            if (layer < uint64_t(n_layers)) {
                int64_t* sums = layers + layer * (n_causes + 2);
                sums[get(o, out[CAUSE])]++;
                sums[n_causes] += __builtin_popcountll(get(o, out[ANN_MATCHES]));
                sums[n_causes + 1] += __builtin_popcountll(get(o, out[SNN_MATCHES]));
            }
        }
        if (!port.observe(t, stim.data(), o)) { *bad_address = port.bad_address; return t; }
    }
    return t;
}

}
#pragma GCC visibility pop
