/* Driver of the NeuroFlex accelerator behind its AXI shell; generated, do not edit.
 *
 * It knows no operating system: registers and memory are reached through what the caller puts into `struct neuroflex`. One call at a
 * time; no dynamic memory; C99.
 *
 *     struct neuroflex nf = {.read32 = ..., .write32 = ..., .memory = ..., .memory_bytes = ..., .bus_address = ...};
 *     if (!neuroflex_init(&nf) && !neuroflex_load(&nf, &digits) && !neuroflex_run(&nf, levels_in, levels_out, 1000000)) ...
 *     if (!neuroflex_run_batch(&nf, images, answers, 100, 1000000, &done)) ...
 *
 * A program (`digits`) is C source that `neuroflex embed` makes of a program image.
 */
#ifndef NEUROFLEX_H
#define NEUROFLEX_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What functions return: 0, or one of these. */
enum neuroflex_error {
    NEUROFLEX_OK = 0,
    NEUROFLEX_BUS = -1,             /* read32 or write32 said that there is no such register, or that it may not be written now */
    NEUROFLEX_WRONG_DEVICE = -2,    /* no NeuroFlex, or registers of another version */
    NEUROFLEX_WRONG_CONFIG = -3,    /* the program was compiled for another configuration */
    NEUROFLEX_MEMORY = -4,          /* the program does not fit memory, or memory does not begin at a page of the bus */
    NEUROFLEX_LEVEL = -5,           /* an input's level is larger than the program takes */
    NEUROFLEX_TIMEOUT = -6,         /* the job did not end in time; it was stopped, and the next one can start */
    NEUROFLEX_JOB = -7,             /* the job ended with an error: see `status` and `descriptor` */
    NEUROFLEX_STUCK = -8,           /* stays busy: a job runs, or its memory owes an answer */
    NEUROFLEX_NO_PROGRAM = -9,      /* neuroflex_load comes first */
    NEUROFLEX_UNDER_WAY = -10,      /* jobs of the queue are under way: neuroflex_collect comes first */
    NEUROFLEX_EMPTY = -11           /* there is nothing to collect */
};

/* Why a job ended. */
enum neuroflex_status {
@STATUS_CODES@
};

/* Performance counters of the last job. */
enum neuroflex_counter {
@COUNTER_NUMBERS@
};

/* Where a tensor of activations lies in memory, and how: docs/formats.md. */
struct neuroflex_tensor {
    uint32_t base;                  /* line address */
    uint32_t channels, height, width;
    uint32_t chunks;                /* per position of the grid */
    uint32_t levels;                /* largest level */
    const uint16_t *positions;      /* of each channel within its chunks */
};

struct neuroflex_program {
    const char *name;
    uint32_t config0, config1, config2;     /* registers of the accelerator that it was compiled for */
    uint32_t line_bytes;
    uint32_t first_descriptor;      /* line address */
    uint32_t tensor_line;           /* line address from which on there are tensors, and nothing else */
    uint32_t memory_bytes;          /* of memory, tensors included */
    uint32_t content_bytes;         /* of `content`; memory behind it begins as zeros */
    const uint8_t *content;
    struct neuroflex_tensor input, output;
};

struct neuroflex {
    /* To fill in. Offsets are bytes from the accelerator's page of registers; return 0, or something else when the bus answers with an error. */
    int (*read32)(void *context, uint32_t offset, uint32_t *value);
    int (*write32)(void *context, uint32_t offset, uint32_t value);
    void *context;                  /* handed to all of these */
    uint8_t *memory;                /* as the processor sees it */
    uint32_t memory_bytes;
    uint64_t bus_address;           /* of the same memory as the accelerator sees it; a multiple of 4096 */

    /* May be null. `idle` is called between two polls: sleep there, wait for the interrupt, or return something else than 0 to give up.
       `flush` is called after the processor has written memory, `invalidate` before it reads what the accelerator wrote. */
    int (*idle)(void *context);
    void (*flush)(void *context, const uint8_t *from, uint32_t bytes);
    void (*invalidate)(void *context, const uint8_t *from, uint32_t bytes);

    /* To read. */
    const struct neuroflex_program *program;    /* the one that is loaded */
    enum neuroflex_status status;               /* of the last job */
    uint32_t descriptor;                        /* number of the program's descriptor at which it ended */
    uint32_t places;                            /* jobs that may be in the queue: it holds as many, and memory has room for their tensors */
    uint32_t under_way;                         /* jobs that are */
    uint32_t cycles;                            /* of the last job that was collected, lower 32 bits */
    uint32_t next, stride;                      /* of the driver: place of the next job, bytes from one place to the next */
};

/* Check that a NeuroFlex answers, and stop whatever it does. */
int neuroflex_init(struct neuroflex *nf);

/* Put a program into memory, and zeros where jobs of the queue have their tensors. `program` is kept, not copied. */
int neuroflex_load(struct neuroflex *nf, const struct neuroflex_program *program);

/* Run one job: levels[channels][height][width] in and out; `polls`: how often to look whether it has ended. */
int neuroflex_run(struct neuroflex *nf, const uint8_t *input, uint8_t *output, uint32_t polls);

/* The same in steps. `neuroflex_start` waits while memory still answers what an aborted job has asked for; write the input once `status.busy`
   is clear then, as `neuroflex_run` does. `neuroflex_poll` sets `*finished`; once it is set, the job's outcome is what the function returns. */
int neuroflex_write_input(struct neuroflex *nf, const uint8_t *levels);
int neuroflex_start(struct neuroflex *nf);
int neuroflex_poll(struct neuroflex *nf, int *finished);
int neuroflex_wait(struct neuroflex *nf, uint32_t polls);
int neuroflex_read_output(struct neuroflex *nf, uint8_t *levels);

/* Many jobs, through the queue: while one is in work the next inputs are written. `*done` counts those that ended well; when the function returns an error it is
   the number of the input that has it. `polls`: for each of them. */
int neuroflex_run_batch(struct neuroflex *nf, const uint8_t *inputs, uint8_t *outputs, uint32_t count, uint32_t polls, uint32_t *done);

/* The same in steps: submit up to `places` jobs, collect the oldest, submit the next. After an error or a timeout of a job, and after neuroflex_reset, none is under way; after NEUROFLEX_BUS call neuroflex_reset.
   While some are, only these two, neuroflex_reset and neuroflex_count may be used. */
int neuroflex_submit(struct neuroflex *nf, const uint8_t *input);
int neuroflex_collect(struct neuroflex *nf, uint8_t *output, uint32_t polls);

/* Soft reset: all jobs are abandoned, program and memory stay. */
int neuroflex_reset(struct neuroflex *nf);

/* What the hardware counted in the last job. */
int neuroflex_count(struct neuroflex *nf, enum neuroflex_counter counter, uint64_t *value);

/* In words, for any value. */
const char *neuroflex_error_text(int error);
const char *neuroflex_status_text(enum neuroflex_status status);

#ifdef __cplusplus
}
#endif

#endif
