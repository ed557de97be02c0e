// A system around the accelerator with its AXI shell: a processor's register accesses and a memory, cycle by cycle. Appended to
// the shim of tb/simulator.py, which has `Simulation` with its `stim_vector` and `trace_vector`.
#include <deque>
#include <vector>

namespace {

// A field of a packed vector of 64-bit words; wider ones begin at a word.
struct Field { int64_t start, width; };

uint64_t get(const uint64_t* words, Field f) {
    uint64_t value = words[f.start / 64] >> (f.start % 64);
    return f.width < 64 ? value & ((uint64_t(1) << f.width) - 1) : value;
}
void put(uint64_t* words, Field f, uint64_t value) {
    uint64_t mask = f.width < 64 ? (uint64_t(1) << f.width) - 1 : ~uint64_t(0);
    uint64_t& word = words[f.start / 64];
    word = (word & ~(mask << (f.start % 64))) | ((value & mask) << (f.start % 64));
}

enum In { AWREADY, WREADY, BVALID, BRESP, ARREADY, RVALID, RDATA, RRESP, RLAST,
          S_AWVALID, S_AWADDR, S_WVALID, S_WDATA, S_WSTRB, S_BREADY, S_ARVALID, S_ARADDR, S_RREADY, N_IN };
enum Out { AWVALID, AWADDR, AWLEN, WVALID, WDATA, WSTRB, WLAST, BREADY, ARVALID, ARADDR, ARLEN, RREADY,
           S_AWREADY, S_WREADY, S_BVALID, S_BRESP, S_ARREADY, S_RVALID, S_RDATA, S_RRESP, IRQ, N_OUT };

enum Channel { AR, R, AW, W, B, N_CHANNELS };

// A burst that memory has taken. `failed` is the response of a refused one (SLVERR, DECERR) or 0; of a read's beats only `failed_beat`, counted from
// the last one, has it, or all of them when that is -1.
struct Burst { uint64_t address; int64_t beats, ready_at; int failed; int64_t failed_beat; };

struct System {
    Simulation* simulation;
    std::vector<Field> in, out;
    std::vector<uint64_t> stim, trace;
    uint8_t* memory;
    uint64_t base, size, random;
    int64_t beat_bytes, latency, stall;      // stall: chance in 256 that a channel waits in a cycle
    int64_t fail_read = -1, fail_write = -1; // number of the burst that is refused; -1 for none
    int fail_with = 2;                       // and its response
    int64_t fail_beat = -1;
    int64_t chaos = 0;                       // chance in 65,536 that a burst is refused
    bool decodes = false;                    // what lies outside of memory is answered with DECERR, as an interconnect does
    bool lies = false;                       // a refused burst is answered with OKAY: a fault in the system, for tests of tests
    int64_t stall_from[N_CHANNELS] = {}, stall_to[N_CHANNELS] = {};
    int64_t refused_reads = 0, refused_writes = 0, held = 0;     // bursts refused, cycles in which a long stall held something up
    int64_t n_reads = 0, n_writes = 0, bad = -1, most_reads = 0;
    std::deque<Burst> reads, writes, answers;
    std::deque<std::vector<uint64_t>> beats;     // data words, strobe, last
    bool irq = false, shown_read = false, shown_answer = false;
    uint64_t strobe = 15;

    uint64_t draw() {
        random ^= random << 13; random ^= random >> 7; random ^= random << 17;
        return random;
    }
    bool stalls(int channel) {
        bool waits = int64_t(draw() & 255) < stall;
        return waits || (simulation->cycle >= stall_from[channel] && simulation->cycle < stall_to[channel]);
    }
    bool inside(uint64_t address, uint64_t bytes) {
        if (address >= base && address + bytes <= base + size) return true;
        if (bad < 0 && !decodes) bad = int64_t(address);
        return false;
    }
    // The response of a burst that was just taken.
    int judged(uint64_t address, int64_t beats, bool chosen, int64_t& refused) {
        int response = chosen ? fail_with : 0;
        if (chaos && int64_t(draw() >> 20 & 65535) < chaos) response = 2 + int(draw() >> 30 & 1);
        if (decodes && !inside(address, beats * beat_bytes)) response = 3;
        refused += response != 0;
        return response;
    }

    // One cycle. `access`: 0 none, 1 read, 2 write; set to 3 when its answer has come.
    void step(int& access, bool& address_sent, bool& data_sent, uint64_t address, uint64_t& data, uint64_t& response) {
        const int64_t t = simulation->cycle;
        std::fill(stim.begin(), stim.end(), 0);
        auto set = [&](int name, uint64_t value) { put(stim.data(), in[name], value); };
        bool aw_ready = !stalls(AW), w_ready = !stalls(W), ar_ready = !stalls(AR);
        set(AWREADY, aw_ready); set(WREADY, w_ready); set(ARREADY, ar_ready);
        shown_read = !reads.empty() && (shown_read || (t >= reads.front().ready_at && !stalls(R)));
        if (shown_read) {
            auto& burst = reads.front();
            bool failed = burst.failed && (burst.failed_beat < 0 || burst.failed_beat == burst.beats - 1);
            set(RVALID, 1); set(RLAST, burst.beats == 1); set(RRESP, failed && !lies ? burst.failed : 0);
            for (int64_t b = 0; b < beat_bytes; b += 8) {
                uint64_t word = 0;
                if (inside(burst.address, beat_bytes)) memcpy(&word, memory + (burst.address - base) + b, 8);
                put(stim.data(), Field{in[RDATA].start + 8 * b, 64}, failed ? ~word : word);      // what comes with an error is no data
            }
        }
        shown_answer = !answers.empty() && (shown_answer || (t >= answers.front().ready_at && !stalls(B)));
        if (shown_answer) { set(BVALID, 1); set(BRESP, lies ? 0 : answers.front().failed); }
        if (access == 1 && !address_sent) { set(S_ARVALID, 1); set(S_ARADDR, address); }
        if (access == 2 && !address_sent) { set(S_AWVALID, 1); set(S_AWADDR, address); }
        if (access == 2 && !data_sent) { set(S_WVALID, 1); set(S_WDATA, data); set(S_WSTRB, strobe); }
        set(S_RREADY, 1); set(S_BREADY, 1);

        memcpy(&simulation->top.stim_vector, stim.data(), sizeof simulation->top.stim_vector);
        simulation->step();
        memcpy(trace.data(), &simulation->top.trace_vector, sizeof simulation->top.trace_vector);
        auto o = [&](int name) { return get(trace.data(), out[name]); };

        if (access == 1) {
            if (!address_sent && o(S_ARREADY)) address_sent = true;
            if (o(S_RVALID)) { data = o(S_RDATA); response = o(S_RRESP); access = 3; }
        } else if (access == 2) {
            if (!address_sent && o(S_AWREADY)) address_sent = true;
            if (!data_sent && o(S_WREADY)) data_sent = true;
            if (o(S_BVALID)) { response = o(S_BRESP); access = 3; }
        }
        irq = o(IRQ);
        if (shown_read && o(RREADY)) {
            shown_read = false;
            reads.front().address += beat_bytes;
            if (--reads.front().beats == 0) reads.pop_front();
        }
        if (shown_answer && o(BREADY)) { shown_answer = false; answers.pop_front(); }
        auto late = [&](int channel) { return t >= stall_from[channel] && t < stall_to[channel]; };
        held += (o(ARVALID) && late(AR)) || (o(AWVALID) && late(AW)) || (o(WVALID) && late(W)) || (!reads.empty() && !shown_read && late(R))
                || (!answers.empty() && !shown_answer && late(B));
        if (o(ARVALID) && ar_ready) {
            const int64_t beats = int64_t(o(ARLEN)) + 1;
            reads.push_back({o(ARADDR), beats, t + latency, judged(o(ARADDR), beats, n_reads == fail_read, refused_reads), fail_beat < 0 ? -1 : fail_beat % beats});
            if (reads.back().failed == 3) reads.back().failed_beat = -1;       // nobody is there to answer any of it
            n_reads++;
            if (int64_t(reads.size()) > most_reads) most_reads = reads.size();
        }
        if (o(AWVALID) && aw_ready) {
            const int64_t beats = int64_t(o(AWLEN)) + 1;
            writes.push_back({o(AWADDR), beats, 0, judged(o(AWADDR), beats, n_writes == fail_write, refused_writes), -1});
            n_writes++;
        }
        if (o(WVALID) && w_ready) {
            std::vector<uint64_t> beat;
            for (int64_t b = 0; b < beat_bytes; b += 8) beat.push_back(get(trace.data(), Field{out[WDATA].start + 8 * b, 64}));
            beat.push_back(o(WSTRB));
            beats.push_back(beat);
        }
        if (!writes.empty() && int64_t(beats.size()) >= writes.front().beats) {
            auto& burst = writes.front();
            for (int64_t i = 0; i < burst.beats; i++, beats.pop_front()) {
                uint64_t at = burst.address + i * beat_bytes;
                if (burst.failed || !inside(at, beat_bytes)) continue;
                for (int64_t b = 0; b < beat_bytes; b++)
                    if (beats.front().back() >> b & 1) memory[at - base + b] = uint8_t(beats.front()[b / 8] >> (8 * (b % 8)));
            }
            answers.push_back({0, 0, t + latency, burst.failed, -1});
            writes.pop_front();
        }
    }
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void* system_new(void* p, int64_t stim_words, int64_t trace_words, const int64_t* in_fields, const int64_t* out_fields, uint8_t* memory,
                 uint64_t base, uint64_t size, int64_t beat_bytes, int64_t latency, int64_t stall, uint64_t seed) {
    auto* s = new System;
    s->simulation = static_cast<Simulation*>(p);
    for (int i = 0; i < N_IN; i++) s->in.push_back({in_fields[2 * i], in_fields[2 * i + 1]});
    for (int i = 0; i < N_OUT; i++) s->out.push_back({out_fields[2 * i], out_fields[2 * i + 1]});
    s->stim.resize(stim_words); s->trace.resize(trace_words);
    s->memory = memory; s->base = base; s->size = size; s->beat_bytes = beat_bytes;
    s->latency = latency; s->stall = stall; s->random = seed * 2 + 0x9E3779B97F4A7C15u;
    return s;
}
void system_delete(void* p) { delete static_cast<System*>(p); }

// The burst, counted from now, that is refused, -1 for none; its response; of a read, the beat with the error, -1 for all.
void system_fail(void* p, int64_t read, int64_t write, int64_t response, int64_t beat) {
    auto* s = static_cast<System*>(p);
    s->fail_read = read < 0 ? -1 : s->n_reads + read;
    s->fail_write = write < 0 ? -1 : s->n_writes + write;
    s->fail_with = int(response);
    s->fail_beat = beat;
}
// Chance that any burst is refused, DECERR outside of memory, refusals that are not told.
void system_manners(void* p, int64_t chaos, int64_t decodes, int64_t lies) {
    auto* s = static_cast<System*>(p);
    s->chaos = chaos; s->decodes = decodes; s->lies = lies;
}
// One channel moves nothing for so many cycles, from `after` cycles on.
void system_stall(void* p, int64_t channel, int64_t after, int64_t cycles) {
    auto* s = static_cast<System*>(p);
    s->stall_from[channel] = s->simulation->cycle + after;
    s->stall_to[channel] = s->stall_from[channel] + cycles;
}
// cycle, interrupt, address outside of memory or -1, most reads under way, bursts read and written, of these refused, cycles held up by long stalls
void system_state(void* p, int64_t* state) {
    auto* s = static_cast<System*>(p);
    const int64_t values[] = {s->simulation->cycle, s->irq, s->bad, s->most_reads, s->n_reads, s->n_writes, s->refused_reads, s->refused_writes, s->held};
    memcpy(state, values, sizeof values);
}
// A register access: returns 0, or -1 when it was not answered within `most` cycles.
int64_t system_access(void* p, int64_t write, uint64_t address, uint64_t* data, uint64_t* response, int64_t most) {
    auto* s = static_cast<System*>(p);
    int access = write ? 2 : 1;
    bool address_sent = false, data_sent = false;
    for (int64_t i = 0; i < most; i++) {
        s->step(access, address_sent, data_sent, address, *data, *response);
        if (access == 3) return 0;
    }
    return -1;
}
// Accesses one after the other: `what` has bit 0 for a write, strobes above it. Returns how many were answered, each within `most` cycles.
int64_t system_accesses(void* p, int64_t count, const int64_t* what, const uint64_t* address, uint64_t* data, uint64_t* response, int64_t most) {
    auto* s = static_cast<System*>(p);
    for (int64_t i = 0; i < count; i++) {
        s->strobe = what[i] >> 1;
        if (system_access(p, what[i] & 1, address[i], &data[i], &response[i], most) || failure[0]) return i;
    }
    s->strobe = 15;
    return count;
}
// Let time pass: `most` cycles, or until the interrupt is up. Returns the cycles.
int64_t system_wait(void* p, int64_t most, int64_t until_interrupt) {
    auto* s = static_cast<System*>(p);
    int access = 0;
    bool address_sent = false, data_sent = false;
    uint64_t data = 0, response = 0;
    int64_t i = 0;
    while (i < most && !(until_interrupt && s->irq)) { s->step(access, address_sent, data_sent, 0, data, response); i++; if (failure[0]) break; }
    return i;
}

}
#pragma GCC visibility pop
