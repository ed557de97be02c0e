// Closed loop around the whole accelerator: a memory with the timing of sim/memory.py, a script of register accesses, and
// sums per layer. Appended to the shim of tb/simulator.py, which has `Simulation` with its `stim_vector` and `trace_vector`.
#include <deque>
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

struct Burst { uint64_t address, lines; int64_t ready_at; uint64_t writes_before; };

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Field tables: order as in accelerator.py. Returns the cycles simulated; the run ends `tail` cycles after the last scripted
// access was answered, or after `most` cycles.
int64_t accelerator_run(void* p, int64_t stim_words, int64_t trace_words, const int64_t* in_fields, const int64_t* out_fields,
                        uint8_t* memory, int64_t memory_lines, int64_t line_bytes,
                        const uint8_t* request_ready, int64_t n_request_ready, const uint8_t* write_ready, int64_t n_write_ready,
                        const uint8_t* read_go, int64_t n_read_go, const int64_t* latency, int64_t n_latency,
                        int64_t answer_latency, int64_t error_line, const uint8_t* take, int64_t n_take,
                        const uint64_t* script, const int64_t* wait, int64_t n_script, uint64_t* answers,
                        int64_t* layers, int64_t n_layers, int64_t n_causes,
                        int64_t most, int64_t tail, uint64_t* stim_out, uint64_t* trace_out, int64_t* bad_address) {
    auto* s = static_cast<Simulation*>(p);
    auto in = [&](int i) { return Field{in_fields[2 * i], in_fields[2 * i + 1]}; };
    auto out = [&](int i) { return Field{out_fields[2 * i], out_fields[2 * i + 1]}; };
    enum In { REG_VALID, REG_PAYLOAD, REG_TAKE, MREQ_READY, MWD_READY, MRD_VALID, MRD_PAYLOAD, MDONE_VALID, MDONE_PAYLOAD };
    enum Out { INTERRUPT, REG_READY, ANS_VALID, ANS_PAYLOAD, MREQ_VALID, MREQ_PAYLOAD, MWD_VALID, MWD_PAYLOAD, MRD_READY, MDONE_READY,
               LAYER, CAUSE, BUSY, ANN_MATCHES, SNN_MATCHES, ADDRESS_WIDTH };
    const int64_t address_bits = out_fields[2 * ADDRESS_WIDTH];

    std::vector<uint64_t> stim(stim_words), trace(trace_words);
    std::deque<Burst> reads, writes;
    std::deque<int64_t> done_at;
    uint64_t position = 0, written = 0, writes_completed = 0, writes_requested = 0, n_reads = 0;
    int64_t n_lines = 0;
    bool held = false;
    int64_t access = 0, answered = 0, answered_at = -1, ended = -1;
    bool interrupt = false;

    int64_t t = 0;
    for (; t < most && (ended < 0 || t < ended + tail); t++) {
        std::memset(stim.data(), 0, stim_words * 8);
        // Registers: one access after the other, each once the interrupt is up (wait -1), while the last answer still waits (-2) or some
        // cycles after it.
        bool go = access < n_script && (wait[access] == -2 || (access == answered && (wait[access] < 0 ? interrupt : t - answered_at > wait[access])));
        if (go) {
            put(stim.data(), in(REG_VALID), 1);
            put(stim.data(), in(REG_PAYLOAD), script[access]);
        }
        bool taken = take[t % n_take];
        put(stim.data(), in(REG_TAKE), taken);
        // Memory: everything it shows depends on what happened before this cycle.
        put(stim.data(), in(MREQ_READY), request_ready[t % n_request_ready]);
        put(stim.data(), in(MWD_READY), !writes.empty() && write_ready[t % n_write_ready]);
        bool shown = !reads.empty() && (held || (t >= reads.front().ready_at && read_go[t % n_read_go]
                                                 && writes_completed >= reads.front().writes_before));
        if (shown) {
            uint64_t address = reads.front().address + position;
            if (address >= uint64_t(memory_lines)) { *bad_address = int64_t(address); return t; }
            put(stim.data(), in(MRD_VALID), 1);
            const uint8_t* line = memory + address * line_bytes;
            Field f = in(MRD_PAYLOAD);
            for (int64_t b = 0; b < line_bytes; b++) put(stim.data(), Field{f.start + 8 * b, 8}, line[b]);
            if (n_lines == error_line) put(stim.data(), Field{f.start + 8 * line_bytes, 1}, 1);
        }
        bool done = !done_at.empty() && t >= done_at.front();
        put(stim.data(), in(MDONE_VALID), done);

        memcpy(&s->top.stim_vector, stim.data(), sizeof s->top.stim_vector);
        s->step();
        memcpy(trace.data(), &s->top.trace_vector, sizeof s->top.trace_vector);
        if (failure[0]) return t;
        if (stim_out) { memcpy(stim_out, stim.data(), stim_words * 8); stim_out += stim_words; }
        if (trace_out) { memcpy(trace_out, trace.data(), trace_words * 8); trace_out += trace_words; }
        const uint64_t* o = trace.data();

        if (get(o, out(ANS_VALID)) && taken && answered < n_script) {
            answers[answered++] = get(o, out(ANS_PAYLOAD));
            answered_at = t;
            if (answered == n_script) ended = t;
        }
        if (go && get(o, out(REG_READY))) access++;
        interrupt = get(o, out(INTERRUPT));
        if (get(o, out(BUSY))) {
            uint64_t layer = get(o, out(LAYER));
            if (layer < uint64_t(n_layers)) {
                int64_t* sums = layers + layer * (n_causes + 2);
                sums[get(o, out(CAUSE))]++;
                sums[n_causes] += __builtin_popcountll(get(o, out(ANN_MATCHES)));
                sums[n_causes + 1] += __builtin_popcountll(get(o, out(SNN_MATCHES)));
            }
        }
        if (get(o, out(MREQ_VALID)) && request_ready[t % n_request_ready]) {
            uint64_t payload = get(o, out(MREQ_PAYLOAD));
            uint64_t address = payload & ((uint64_t(1) << address_bits) - 1), count = payload >> address_bits & 255;
            if (address + count > uint64_t(memory_lines) || count == 0) { *bad_address = int64_t(address); return t; }
            if (payload >> (address_bits + 8) & 1) {
                writes.push_back({address, count, 0, 0});
                writes_requested++;
            } else {
                reads.push_back({address, count, t + latency[n_reads++ % n_latency], writes_requested});
            }
        }
        if (get(o, out(MWD_VALID)) && get(stim.data(), in(MWD_READY))) {
            uint8_t* line = memory + (writes.front().address + written) * line_bytes;
            Field f = out(MWD_PAYLOAD);
            for (int64_t b = 0; b < line_bytes; b++) line[b] = uint8_t(get(o, Field{f.start + 8 * b, 8}));
            if (++written == writes.front().lines) {
                written = 0;
                writes.pop_front();
                writes_completed++;
                done_at.push_back(t + answer_latency);
            }
        }
        held = false;
        if (shown) {
            if (get(o, out(MRD_READY))) {
                n_lines++;
                if (++position == reads.front().lines) { position = 0; reads.pop_front(); }
            } else {
                held = true;
            }
        }
        if (done && get(o, out(MDONE_READY))) done_at.pop_front();
    }
    return t;
}

}
#pragma GCC visibility pop
