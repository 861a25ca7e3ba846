/**
 * Gabion in C: a bundle opened, images classified, adapted to local images, rolled back.
 *
 * Strings are UTF-8 and end with a NUL. Functions that can fail return a `gabion_status`, and `gabion_last_error` says in
 * words what was wrong; nothing is written to standard streams but what a fault of the library leaves on standard error.
 * Structs that begin with `size` may grow: set all bytes to zero, then `size` to the struct's own, then what is wanted.
 * Any number of threads may use one session at once, for everything but `gabion_close`. A session does not survive `fork`.
 *
 * Made by `cargo run -p xtask --release -- header` from crates/capi/src; changes belong there.
 */

#ifndef GABION_H
#define GABION_H

#include <stddef.h>
#include <stdint.h>

/**
 * The version of this interface. It grows when a function or a struct changes so that older programs would break;
 * new functions, and new fields at the end of a struct that begins with its size, leave it as it is.
 */
#define GABION_ABI_VERSION 1

/**
 * Held-out images are measured before training.
 */
#define GABION_PHASE_GUARD_BEFORE 0

/**
 * Training.
 */
#define GABION_PHASE_STEP 1

/**
 * Held-out images are measured after training.
 */
#define GABION_PHASE_GUARD_AFTER 2

/**
 * What became of a call. Numbers keep their meaning; new ones may come.
 */
enum gabion_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It was done.
   */
  GABION_OK = 0,
  /**
   * A NULL where there must be none, a size that is none, text that is not UTF-8, a number out of range.
   */
  GABION_ERROR_ARGUMENT = 1,
  /**
   * The system refused to read or write a file.
   */
  GABION_ERROR_IO = 2,
  /**
   * The folder holds no bundle, a damaged one, one without a classifier, or not the signature that is required.
   */
  GABION_ERROR_BUNDLE = 3,
  /**
   * The picture cannot be decoded or is too large.
   */
  GABION_ERROR_PICTURE = 4,
  /**
   * The caller's buffer is too small; what it takes was written beside it.
   */
  GABION_ERROR_BUFFER = 5,
  /**
   * The memory that was allowed is less than what it takes.
   */
  GABION_ERROR_MEMORY = 6,
  /**
   * The library was built without this, or is too old or too new for it.
   */
  GABION_ERROR_UNSUPPORTED = 7,
  /**
   * The progress function ended the adaptation; the bundle is as it was.
   */
  GABION_ERROR_CANCELLED = 8,
  /**
   * Another thread is adapting or rolling back this session.
   */
  GABION_ERROR_BUSY = 9,
  /**
   * The adaptation failed: a loss or a weight is not finite. The bundle is as it was.
   */
  GABION_ERROR_ADAPT = 10,
  /**
   * An earlier call on this session failed with `GABION_ERROR_INTERNAL`: close it.
   */
  GABION_ERROR_POISONED = 11,
  /**
   * A fault of this library.
   */
  GABION_ERROR_INTERNAL = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gabion_status gabion_status;
#else
typedef int32_t gabion_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * An opened bundle with a classifier.
 *
 * Any number of threads may use one session at once, for everything but `gabion_close`. While one adapts or rolls back,
 * others classify with the weights from before.
 */
typedef struct gabion_session gabion_session;

/**
 * How a bundle is opened. Zeros are the defaults; begin with `gabion_options options = {0}` and set the size.
 */
typedef struct gabion_options {
  /**
   * `sizeof(gabion_options)`.
   */
  size_t size;
  /**
   * Most bytes of weights and activations; 0 for no limit. With less than it likes, fewer views are computed at once.
   */
  uint64_t memory;
  /**
   * Threads that compute, at most 1024; 0 for one a core. They end with the session.
   */
  uint32_t threads;
  /**
   * With `public_key`, 1 to let what was adapted here classify too, though nobody signed it; else 0.
   */
  uint32_t local_generations;
  /**
   * Refuse a bundle that is not signed with this key: its 64 digits, or the text of its file, in UTF-8. NULL for any
   * bundle. Without `local_generations` there is no adaptation then.
   */
  const char *public_key;
} gabion_options;

/**
 * Pixels of 8-bit RGB in the caller's memory: red, green and blue of the first pixel of the first row, then the next to
 * the right. This struct does not grow.
 */
typedef struct gabion_pixels {
  /**
   * The first row's first byte; not NULL.
   */
  const uint8_t *data;
  /**
   * Columns, 1 or more.
   */
  uint32_t width;
  /**
   * Rows, 1 or more.
   */
  uint32_t height;
  /**
   * Bytes from a row's first to the next one's; 0 stands for `3 * width`.
   */
  size_t stride;
} gabion_pixels;

/**
 * How an image is classified. Zeros are the defaults; begin with `gabion_classify_options options = {0}` and set the
 * size.
 */
typedef struct gabion_classify_options {
  /**
   * `sizeof(gabion_classify_options)`.
   */
  size_t size;
  /**
   * Seeds the crops; equal seeds give equal results on one machine.
   */
  uint64_t seed;
  /**
   * 1 (or 0) for the whole image, up to 4096 for a vote of so many random crops at most.
   */
  uint32_t views;
  /**
   * A vote ends once all views would give the same answer with this probability, above 0.5; 1 (or 0) takes every view.
   */
  float confidence;
} gabion_classify_options;

/**
 * What a session says of an image. The caller sets the size, and where probabilities of all classes are wanted, a buffer.
 * On failure it stays as it was, but for `classes` with `GABION_ERROR_BUFFER`.
 */
typedef struct gabion_result {
  /**
   * In: `sizeof(gabion_result)`.
   */
  size_t size;
  /**
   * In: receives the probability of every class in the order of their places; NULL if they are not wanted.
   */
  float *probabilities;
  /**
   * In: how many `probabilities` has room for.
   */
  size_t capacity;
  /**
   * Classes, which is how many probabilities were written.
   */
  size_t classes;
  /**
   * Time from the pixels to the probabilities.
   */
  double milliseconds;
  /**
   * The place of the most probable class.
   */
  uint32_t label;
  /**
   * Its probability.
   */
  float probability;
  /**
   * The greatest probability less the next.
   */
  float margin;
  /**
   * Share of the views whose own first class is the final one; 1 for a single view.
   */
  float agreement;
  /**
   * Views that it rests on.
   */
  uint32_t views;
  /**
   * 0.
   */
  uint32_t reserved;
} gabion_result;

/**
 * A local image. This struct does not grow.
 */
typedef struct gabion_sample {
  /**
   * Of any size.
   */
  struct gabion_pixels pixels;
  /**
   * The place of its class, or -1 where nobody knows; of some images' only is refused.
   */
  int32_t label;
  /**
   * 0.
   */
  uint32_t reserved;
} gabion_sample;

/**
 * How far an adaptation is.
 */
typedef struct gabion_progress {
  /**
   * `sizeof(gabion_progress)` as the library was compiled; with an older one than the header's, later fields are not
   * there.
   */
  size_t size;
  /**
   * Images measured, or steps done.
   */
  uint64_t done;
  /**
   * Images in all; 0 while training.
   */
  uint64_t total;
  /**
   * Seconds of training so far.
   */
  double seconds;
  /**
   * Share of the budget that is used up.
   */
  double share;
  /**
   * Loss before the step.
   */
  float loss;
  /**
   * One of `GABION_PHASE_...`.
   */
  uint32_t phase;
} gabion_progress;

/**
 * Told how far an adaptation is, on the thread that called `gabion_adapt`.
 *
 * It may classify with the session, and must not close it, throw or jump out.
 *
 * @param progress valid during the call
 * @param user     from the options
 * @return 0 to go on; anything else ends the adaptation with `GABION_ERROR_CANCELLED`
 */
typedef int (*gabion_observer)(const struct gabion_progress *progress, void *user);

/**
 * How a bundle is adapted. Zeros are the defaults; begin with `gabion_adapt_options options = {0}` and set the size.
 */
typedef struct gabion_adapt_options {
  /**
   * `sizeof(gabion_adapt_options)`.
   */
  size_t size;
  /**
   * An adaptation recipe as JSON, in UTF-8; keys that are left out have their defaults. NULL for the default recipe.
   */
  const char *recipe;
  /**
   * Seconds of training in the place of the recipe's budget, held-out images not counted; 0 for the recipe's.
   */
  double seconds;
  /**
   * Optimizer steps in the place of the recipe's budget; 0 for the recipe's. Not with `seconds`.
   */
  uint64_t steps;
  /**
   * Most bytes by which resident memory may grow; 0 for no limit.
   */
  uint64_t memory;
  /**
   * Labelled images that nothing is trained on, to judge by; NULL to hold back a share of the samples.
   */
  const struct gabion_sample *guard;
  /**
   * How many.
   */
  size_t guard_count;
  /**
   * Told how far it is; NULL for nobody.
   */
  gabion_observer observer;
  /**
   * Given to `observer`.
   */
  void *user;
} gabion_adapt_options;

/**
 * What came of an adaptation. The caller sets the size; on failure it stays as it was.
 */
typedef struct gabion_verdict {
  /**
   * In: `sizeof(gabion_verdict)`.
   */
  size_t size;
  /**
   * Number of the weights that classify from now on; 0 for the bundle's own.
   */
  uint64_t generation;
  /**
   * Optimizer steps.
   */
  uint64_t steps;
  /**
   * Seconds of training.
   */
  double seconds;
  /**
   * Held-out images.
   */
  uint64_t images;
  /**
   * Accuracy on them before, in points of 100.
   */
  double clean_before;
  /**
   * And after.
   */
  double clean_after;
  /**
   * Accuracy under attack before, in points of 100.
   */
  double robust_before;
  /**
   * And after.
   */
  double robust_after;
  /**
   * 1 if the adapted weights took the place of those before, 0 if they were refused.
   */
  uint32_t promoted;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Why they were refused: UTF-8, cut to fit, ends with a NUL; empty when they were not.
   */
  char reason[256];
} gabion_verdict;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The interface that the library speaks; compare with `GABION_ABI_VERSION`, which is the header's.
 */
uint32_t gabion_abi_version(void);

/**
 * Says whether a program that was compiled with a header can use this library. Call it first.
 *
 * @param header `GABION_ABI_VERSION`
 * @return `GABION_OK`, or `GABION_ERROR_UNSUPPORTED` where the two do not fit
 */
gabion_status gabion_check_abi(uint32_t header);

/**
 * The library's version, such as "0.1.0". The string lives as long as the library.
 */
const char *gabion_version(void);

/**
 * Why the last call on this thread that failed did so: one line of UTF-8 that names the file, the tensor or the key and
 * says what to do. Never NULL; empty when nothing has failed. Valid until another call on this thread fails.
 */
const char *gabion_last_error(void);

/**
 * The name of a status, such as "GABION_ERROR_BUNDLE", for logs. The string lives as long as the library.
 *
 * @param status any number
 */
const char *gabion_status_name(int32_t status);

/**
 * Opens a bundle on the CPU: a folder with `manifest.json` and weights, of which everything is checked.
 *
 * @param bundle  the folder's path, UTF-8
 * @param options how, or NULL for the defaults
 * @param session receives the session, or NULL on failure; to be closed with `gabion_close`
 */
gabion_status gabion_open(const char *bundle, const struct gabion_options *options, struct gabion_session **session);

/**
 * Closes a session and waits for its threads to end. No other call may be using it, and none may use it afterwards.
 *
 * @param session from `gabion_open`, or NULL, which does nothing
 */
void gabion_close(struct gabion_session *session);

/**
 * The bundle's name, UTF-8; NULL on failure. The string lives as long as the session.
 */
const char *gabion_name(const struct gabion_session *session);

/**
 * How many classes the classifier tells apart; 0 on failure.
 */
size_t gabion_class_count(const struct gabion_session *session);

/**
 * The name of a class, UTF-8; NULL on failure. The string lives as long as the session.
 *
 * @param session from `gabion_open`
 * @param label   its place, below `gabion_class_count`
 */
const char *gabion_class_name(const struct gabion_session *session, size_t label);

/**
 * Classifies pixels in memory.
 *
 * @param session from `gabion_open`
 * @param pixels  8-bit RGB, copied before this returns
 * @param options how, or NULL for the defaults: one view, the whole image
 * @param result  receives what the session says
 */
gabion_status gabion_classify_rgb(const struct gabion_session *session,
                                  const struct gabion_pixels *pixels,
                                  const struct gabion_classify_options *options,
                                  struct gabion_result *result);

/**
 * Classifies a picture file's bytes: PNG, JPEG or WebP, of at most 100 million pixels. It is turned as its EXIF says, and
 * what is transparent is laid on white.
 *
 * @param session from `gabion_open`
 * @param bytes   the whole file
 * @param length  how many bytes
 * @param options how, or NULL for the defaults: one view, the whole image
 * @param result  receives what the session says
 */
gabion_status gabion_classify_encoded(const struct gabion_session *session,
                                      const uint8_t *bytes,
                                      size_t length,
                                      const struct gabion_classify_options *options,
                                      struct gabion_result *result);

/**
 * Classifies a picture file, as `gabion_classify_encoded` its bytes.
 *
 * @param session from `gabion_open`
 * @param path    the file's path, UTF-8
 * @param options how, or NULL for the defaults: one view, the whole image
 * @param result  receives what the session says
 */
gabion_status gabion_classify_file(const struct gabion_session *session,
                                   const char *path,
                                   const struct gabion_classify_options *options,
                                   struct gabion_result *result);

/**
 * Adapts a session's bundle to local images by short adversarial training, and judges the result on images that were held
 * back. If it has lost no more than the recipe allows, it is written beside the bundle, which itself never changes, and
 * classifies from now on; else everything stays as it was.
 *
 * Returns when it is done. Other threads may classify meanwhile. Pixels are copied before training begins.
 *
 * @param session from `gabion_open`
 * @param samples what is trained on
 * @param count   how many
 * @param options how, or NULL for the defaults
 * @param verdict receives what came of it
 * @return `GABION_ERROR_UNSUPPORTED` from a library that was built without adaptation
 */
gabion_status gabion_adapt(const struct gabion_session *session,
                           const struct gabion_sample *samples,
                           size_t count,
                           const struct gabion_adapt_options *options,
                           struct gabion_verdict *verdict);

/**
 * Withdraws the newest adapted weights for good; those before them, in the end the bundle's own, classify from now on.
 *
 * @param session    from `gabion_open`
 * @param generation receives the number of the weights that classify then, 0 for the bundle's own; may be NULL
 * @return `GABION_ERROR_UNSUPPORTED` from a library that was built without adaptation
 */
gabion_status gabion_rollback(const struct gabion_session *session, uint64_t *generation);

/**
 * Which weights classify.
 *
 * @param session    from `gabion_open`
 * @param generation receives the number of the adapted weights, 0 for the bundle's own
 */
gabion_status gabion_generation(const struct gabion_session *session, uint64_t *generation);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GABION_H */
