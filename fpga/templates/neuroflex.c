/* Driver of the NeuroFlex accelerator behind its AXI shell; generated, do not edit. */
#include "neuroflex.h"

#include <stddef.h>
#include <string.h>

#include "registers.h"

#define IDENTITY @IDENTITY@u
#define VERSION_MAJOR @VERSION_MAJOR@u
#define PAGE_BYTES @PAGE_BYTES@u
#define COUNTER(number) (@COUNTER_BASE@u + 8u * (uint32_t)(number))     /* low half; the high one follows */
#define CHUNK_LINES @CHUNK_LINES@u
#define BUSY_POLLS 1000u
#define CACHE_LINE 64u          /* bytes, at most: no two places share one */

#define START (NEUROFLEX_CONTROL_START_MASK | NEUROFLEX_CONTROL_INTERRUPT_ENABLE_MASK)
#define FIELD(register, field, word) (((word) & NEUROFLEX_##register##_##field##_MASK) >> NEUROFLEX_##register##_##field##_SHIFT)

#define TRY(call) do { int failed_ = (call); if (failed_) return failed_; } while (0)

static int get(struct neuroflex *nf, uint32_t offset, uint32_t *value)
{
    return nf->read32(nf->context, offset, value) ? NEUROFLEX_BUS : NEUROFLEX_OK;
}

static int put(struct neuroflex *nf, uint32_t offset, uint32_t value)
{
    return nf->write32(nf->context, offset, value) ? NEUROFLEX_BUS : NEUROFLEX_OK;
}

/* Wait until a bit of a register is 0. */
static int wait_clear(struct neuroflex *nf, uint32_t offset, uint32_t mask)
{
    uint32_t word, i;

    for (i = 0; i < BUSY_POLLS; i++) {
        TRY(get(nf, offset, &word));
        if (!(word & mask))
            return NEUROFLEX_OK;
    }
    return NEUROFLEX_STUCK;
}

/* Wait until nothing of an earlier job is under way. A job that was aborted has finished before memory has answered all it asked for:
   until then a start is ignored, and writes that were promised still come. The first write is refused while the queue works. */
static int settle(struct neuroflex *nf)
{
    if (nf->under_way)
        return NEUROFLEX_UNDER_WAY;
    TRY(put(nf, NEUROFLEX_STATUS, NEUROFLEX_STATUS_FINISHED_MASK));
    TRY(wait_clear(nf, NEUROFLEX_STATUS, NEUROFLEX_STATUS_BUSY_MASK));
    return put(nf, NEUROFLEX_STATUS, NEUROFLEX_STATUS_FINISHED_MASK);
}

static uint32_t tensor_bytes(const struct neuroflex_program *program, const struct neuroflex_tensor *tensor)
{
    return tensor->height * tensor->width * tensor->chunks * CHUNK_LINES * program->line_bytes;
}

/* In place 0 tensors are where the program has them. The other places follow the program, whole pages apart. */
static uint8_t *tensor_start(struct neuroflex *nf, const struct neuroflex_tensor *tensor, uint32_t place)
{
    return nf->memory + (size_t)tensor->base * nf->program->line_bytes + (size_t)place * nf->stride;
}

static uint32_t levels_of(const struct neuroflex_tensor *tensor)
{
    return tensor->channels * tensor->height * tensor->width;
}

int neuroflex_init(struct neuroflex *nf)
{
    uint32_t identity, version;

    nf->program = NULL;
    nf->places = nf->under_way = nf->cycles = nf->next = nf->stride = 0;
    nf->status = NEUROFLEX_STATUS_NONE;
    nf->descriptor = 0;
    if (nf->bus_address % PAGE_BYTES)
        return NEUROFLEX_MEMORY;
    TRY(get(nf, NEUROFLEX_IDENTITY, &identity));
    if (identity != IDENTITY)
        return NEUROFLEX_WRONG_DEVICE;
    TRY(get(nf, NEUROFLEX_VERSION, &version));
    if (version >> 16 != VERSION_MAJOR)
        return NEUROFLEX_WRONG_DEVICE;
    return neuroflex_reset(nf);
}

int neuroflex_load(struct neuroflex *nf, const struct neuroflex_program *program)
{
    uint32_t config0, config1, config2, shell, bytes, page = (uint32_t)(nf->bus_address / PAGE_BYTES);

    if (nf->under_way)
        return NEUROFLEX_UNDER_WAY;
    nf->program = NULL;
    TRY(get(nf, NEUROFLEX_CONFIG0, &config0));
    TRY(get(nf, NEUROFLEX_CONFIG1, &config1));
    TRY(get(nf, NEUROFLEX_CONFIG2, &config2));
    if (config0 != program->config0 || config1 != program->config1 || config2 != program->config2)
        return NEUROFLEX_WRONG_CONFIG;
    if (program->memory_bytes > nf->memory_bytes)
        return NEUROFLEX_MEMORY;
    TRY(settle(nf));
    memcpy(nf->memory, program->content, program->content_bytes);
    TRY(get(nf, NEUROFLEX_SHELL, &shell));
    if (!FIELD(SHELL, JOBS, shell))
        return NEUROFLEX_WRONG_DEVICE;
    nf->stride = (program->memory_bytes - program->tensor_line * program->line_bytes + CACHE_LINE + PAGE_BYTES - 1u) / PAGE_BYTES * PAGE_BYTES;
    nf->places = 1u + (nf->memory_bytes - program->memory_bytes) / nf->stride;
    if (nf->places > FIELD(SHELL, JOBS, shell))
        nf->places = FIELD(SHELL, JOBS, shell);
    nf->next = 0;
    bytes = program->memory_bytes + (nf->places - 1u) * nf->stride;
    memset(nf->memory + program->content_bytes, 0, bytes - program->content_bytes);
    if (nf->flush)
        nf->flush(nf->context, nf->memory, bytes);
    /* Program and the tensors of place 0 lie in one piece, so both have the same page. */
    TRY(put(nf, NEUROFLEX_PROGRAM_PAGE, page));
    TRY(put(nf, NEUROFLEX_TENSOR_PAGE, page));
    TRY(put(nf, NEUROFLEX_TENSOR_LINE, program->tensor_line));
    TRY(put(nf, NEUROFLEX_QUEUE_PROGRAM, program->first_descriptor));
    TRY(put(nf, NEUROFLEX_PROGRAM, program->first_descriptor));
    nf->program = program;
    return NEUROFLEX_OK;
}

/* A chunk is a mask of its positions that are not zero, and their values, packed: docs/formats.md. */
static int write_input(struct neuroflex *nf, const uint8_t *levels, uint32_t place)
{
    const struct neuroflex_program *program = nf->program;
    const struct neuroflex_tensor *tensor;
    uint32_t area, chunk_bits, spine_bytes, at, channel;

    if (!program)
        return NEUROFLEX_NO_PROGRAM;
    tensor = &program->input;
    area = tensor->height * tensor->width;
    chunk_bits = 8u * program->line_bytes;
    spine_bytes = tensor->chunks * CHUNK_LINES * program->line_bytes;
    for (at = 0; at < area * tensor->channels; at++)
        if (levels[at] > tensor->levels)
            return NEUROFLEX_LEVEL;
    for (at = 0; at < area; at++) {
        uint8_t *spine = tensor_start(nf, tensor, place) + (size_t)at * spine_bytes;
        uint32_t chunk;

        memset(spine, 0, spine_bytes);
        for (channel = 0; channel < tensor->channels; channel++)
            if (levels[channel * area + at]) {
                uint32_t position = tensor->positions[channel], bit = position % chunk_bits;
                uint8_t *mask = spine + (size_t)(position / chunk_bits) * CHUNK_LINES * program->line_bytes;

                mask[bit / 8] |= (uint8_t)(1u << bit % 8);
                mask[program->line_bytes + bit] = levels[channel * area + at];      /* in its place for now */
            }
        for (chunk = 0; chunk < tensor->chunks; chunk++) {
            uint8_t *mask = spine + (size_t)chunk * CHUNK_LINES * program->line_bytes, *values = mask + program->line_bytes;
            uint32_t bit, count = 0;

            for (bit = 0; bit < chunk_bits; bit++)
                if (mask[bit / 8] >> bit % 8 & 1) {
                    uint8_t value = values[bit];

                    values[bit] = 0;
                    values[count++] = value;
                }
        }
    }
    if (nf->flush)
        nf->flush(nf->context, tensor_start(nf, tensor, place), tensor_bytes(program, tensor));
    return NEUROFLEX_OK;
}

int neuroflex_write_input(struct neuroflex *nf, const uint8_t *levels)
{
    return nf->under_way ? NEUROFLEX_UNDER_WAY : write_input(nf, levels, 0);
}

static int read_output(struct neuroflex *nf, uint8_t *levels, uint32_t place)
{
    const struct neuroflex_program *program = nf->program;
    const struct neuroflex_tensor *tensor;
    uint32_t area, chunk_bits, at, channel;

    if (!program)
        return NEUROFLEX_NO_PROGRAM;
    tensor = &program->output;
    area = tensor->height * tensor->width;
    chunk_bits = 8u * program->line_bytes;
    if (nf->invalidate)
        nf->invalidate(nf->context, tensor_start(nf, tensor, place), tensor_bytes(program, tensor));
    for (at = 0; at < area; at++)
        for (channel = 0; channel < tensor->channels; channel++) {
            uint32_t position = tensor->positions[channel], target = position % chunk_bits, bit, count = 0;
            const uint8_t *mask = tensor_start(nf, tensor, place) + (size_t)(at * tensor->chunks + position / chunk_bits) * CHUNK_LINES * program->line_bytes;

            for (bit = 0; bit < target; bit++)
                count += mask[bit / 8] >> bit % 8 & 1;
            levels[channel * area + at] = mask[target / 8] >> target % 8 & 1 ? mask[program->line_bytes + count] : 0;
        }
    return NEUROFLEX_OK;
}

int neuroflex_read_output(struct neuroflex *nf, uint8_t *levels)
{
    return nf->under_way ? NEUROFLEX_UNDER_WAY : read_output(nf, levels, 0);
}

int neuroflex_start(struct neuroflex *nf)
{
    if (!nf->program)
        return NEUROFLEX_NO_PROGRAM;
    nf->status = NEUROFLEX_STATUS_NONE;
    TRY(settle(nf));
    return put(nf, NEUROFLEX_CONTROL, START);
}

int neuroflex_poll(struct neuroflex *nf, int *finished)
{
    uint32_t word;

    *finished = 0;
    TRY(get(nf, NEUROFLEX_STATUS, &word));
    if (!FIELD(STATUS, FINISHED, word))
        return NEUROFLEX_OK;
    *finished = 1;
    TRY(put(nf, NEUROFLEX_STATUS, NEUROFLEX_STATUS_FINISHED_MASK));
    nf->status = (enum neuroflex_status)FIELD(STATUS, CODE, word);
    nf->descriptor = FIELD(STATUS, LAYER, word);
    return nf->status == NEUROFLEX_STATUS_DONE ? NEUROFLEX_OK : NEUROFLEX_JOB;
}

int neuroflex_wait(struct neuroflex *nf, uint32_t polls)
{
    int finished, failed;

    while (polls--) {
        failed = neuroflex_poll(nf, &finished);
        if (failed || finished)
            return failed;
        if (nf->idle && nf->idle(nf->context))
            break;
    }
    TRY(neuroflex_reset(nf));
    return NEUROFLEX_TIMEOUT;
}

int neuroflex_run(struct neuroflex *nf, const uint8_t *input, uint8_t *output, uint32_t polls)
{
    if (!nf->program)
        return NEUROFLEX_NO_PROGRAM;
    TRY(settle(nf));
    TRY(neuroflex_write_input(nf, input));
    TRY(neuroflex_start(nf));
    TRY(neuroflex_wait(nf, polls));
    return neuroflex_read_output(nf, output);
}

int neuroflex_submit(struct neuroflex *nf, const uint8_t *input)
{
    if (!nf->program)
        return NEUROFLEX_NO_PROGRAM;
    if (nf->under_way == nf->places)
        return NEUROFLEX_UNDER_WAY;
    if (!nf->under_way) {
        TRY(settle(nf));
        TRY(put(nf, NEUROFLEX_QUEUE_CONTROL, NEUROFLEX_QUEUE_CONTROL_INTERRUPT_ENABLE_MASK));
    }
    TRY(write_input(nf, input, nf->next));
    TRY(put(nf, NEUROFLEX_QUEUE_PUSH, (uint32_t)((nf->bus_address + (uint64_t)nf->next * nf->stride) / PAGE_BYTES)));
    nf->next = (nf->next + 1u) % nf->places;
    nf->under_way++;
    return NEUROFLEX_OK;
}

int neuroflex_collect(struct neuroflex *nf, uint8_t *output, uint32_t polls)
{
    uint32_t word, place;

    if (!nf->under_way)
        return NEUROFLEX_EMPTY;
    nf->status = NEUROFLEX_STATUS_NONE;
    while (polls--) {
        TRY(get(nf, NEUROFLEX_QUEUE_RESULT, &word));
        if (FIELD(QUEUE_RESULT, VALID, word)) {
            TRY(get(nf, NEUROFLEX_QUEUE_RESULT_CYCLES, &nf->cycles));
            TRY(put(nf, NEUROFLEX_QUEUE_RESULT, NEUROFLEX_QUEUE_RESULT_VALID_MASK));
            nf->status = (enum neuroflex_status)FIELD(QUEUE_RESULT, CODE, word);
            nf->descriptor = FIELD(QUEUE_RESULT, LAYER, word);
            if (nf->status != NEUROFLEX_STATUS_DONE) {
                TRY(neuroflex_reset(nf));
                return NEUROFLEX_JOB;
            }
            place = (nf->next + nf->places - nf->under_way) % nf->places;
            nf->under_way--;
            return read_output(nf, output, place);
        }
        if (nf->idle && nf->idle(nf->context))
            break;
    }
    TRY(neuroflex_reset(nf));
    return NEUROFLEX_TIMEOUT;
}

int neuroflex_run_batch(struct neuroflex *nf, const uint8_t *inputs, uint8_t *outputs, uint32_t count, uint32_t polls, uint32_t *done)
{
    uint32_t submitted = 0;
    int failed = NEUROFLEX_OK;

    *done = 0;
    if (!nf->program)
        return NEUROFLEX_NO_PROGRAM;
    if (nf->under_way)
        return NEUROFLEX_UNDER_WAY;
    while (*done < count) {
        while (!failed && submitted < count && nf->under_way < nf->places) {
            failed = neuroflex_submit(nf, inputs + (size_t)submitted * levels_of(&nf->program->input));
            if (!failed)
                submitted++;
        }
        if (*done == submitted)
            break;
        /* An input that was refused is told once those before it are done. */
        TRY(neuroflex_collect(nf, outputs + (size_t)*done * levels_of(&nf->program->output), polls));
        ++*done;
    }
    return failed;
}

int neuroflex_reset(struct neuroflex *nf)
{
    nf->under_way = nf->next = 0;
    /* While the queue works, it alone may write the registers of jobs. */
    TRY(put(nf, NEUROFLEX_QUEUE_CONTROL, NEUROFLEX_QUEUE_CONTROL_FLUSH_MASK));
    TRY(wait_clear(nf, NEUROFLEX_QUEUE_STATUS, NEUROFLEX_QUEUE_STATUS_RUNNING_MASK));
    TRY(put(nf, NEUROFLEX_CONTROL, NEUROFLEX_CONTROL_SOFT_RESET_MASK));
    TRY(wait_clear(nf, NEUROFLEX_STATUS, NEUROFLEX_STATUS_BUSY_MASK));
    return put(nf, NEUROFLEX_STATUS, NEUROFLEX_STATUS_FINISHED_MASK);
}

int neuroflex_count(struct neuroflex *nf, enum neuroflex_counter counter, uint64_t *value)
{
    uint32_t low, high;

    TRY(get(nf, COUNTER(counter), &low));
    TRY(get(nf, COUNTER(counter) + 4u, &high));
    *value = (uint64_t)high << 32 | low;
    return NEUROFLEX_OK;
}

const char *neuroflex_error_text(int error)
{
    switch (error) {
    case NEUROFLEX_OK: return "no error";
    case NEUROFLEX_BUS: return "the bus answered a register access with an error";
    case NEUROFLEX_WRONG_DEVICE: return "what answers is no NeuroFlex of this version";
    case NEUROFLEX_WRONG_CONFIG: return "the program was compiled for another configuration";
    case NEUROFLEX_MEMORY: return "the program does not fit memory, or memory does not begin at a page of the bus";
    case NEUROFLEX_LEVEL: return "an input's level is larger than the program takes";
    case NEUROFLEX_TIMEOUT: return "the job did not end in time; it was stopped";
    case NEUROFLEX_JOB: return "the job ended with an error";
    case NEUROFLEX_STUCK: return "the accelerator stays busy: a job runs, or its memory does not answer";
    case NEUROFLEX_NO_PROGRAM: return "no program is loaded";
    case NEUROFLEX_UNDER_WAY: return "jobs of the queue are under way; collect them first";
    case NEUROFLEX_EMPTY: return "no job of the queue is under way";
    }
    return "unknown error";
}

const char *neuroflex_status_text(enum neuroflex_status status)
{
    switch (status) {
@STATUS_TEXTS@
    }
    return "unknown status";
}
