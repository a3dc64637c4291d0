/** What a call is measured by: its duration, its usage, and how a streamed answer came. */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Tracer from "effect/Tracer"
import type { LlmError } from "../LlmError.ts"
import type { LlmStreamPart, RateLimits, Usage } from "../LlmResponse.ts"
import type { StreamDecoder } from "../protocol/Protocol.ts"
import * as Telemetry from "./telemetry.ts"

const seconds = (from: bigint, to: bigint): number => Number(to - from) / 1e9

/** Records the metrics of a call, whatever becomes of it. */
export const measured =
  (operation: Telemetry.Operation) =>
  <A extends { readonly usage: Usage; readonly model?: string | undefined }>(
    effect: Effect.Effect<A, LlmError>
  ): Effect.Effect<A, LlmError> =>
    Effect.flatMap(Clock.currentTimeNanos, (started) =>
      Effect.onExit(effect, (exit) =>
        Effect.flatMap(Clock.currentTimeNanos, (now) => {
          const took = seconds(started, now)
          if (Exit.isSuccess(exit)) {
            const { model, usage } = exit.value
            return Telemetry.record(operation, took, { usage, model, error: undefined })
          }
          const failure = Option.getOrUndefined(Cause.failureOption(exit.cause))
          return Telemetry.record(operation, took, {
            usage: failure?.usage ?? {},
            model: failure?.partial?.model,
            error: failure?.reason ?? (Cause.isInterrupted(exit.cause) ? "cancelled" : "defect")
          })
        })
      )
    )

/** What is known of one streamed answer while it comes. Mutable, since it is looked at for every chunk. */
export class Progress {
  decoder: StreamDecoder | undefined
  failed: LlmError | undefined
  hadContent = false
  /** What the headers of the attempt's response said. */
  rateLimits: RateLimits | undefined
  private span: Tracer.Span | undefined
  private clock: Clock.Clock | undefined
  private started = 0n
  private first: bigint | undefined
  private finish: Extract<LlmStreamPart, { readonly type: "finish" }> | undefined

  start(clock: Clock.Clock): void {
    this.clock = clock
    this.started = clock.unsafeCurrentTimeNanos()
  }

  begin(decoder: StreamDecoder, span: Tracer.Span | undefined): void {
    this.decoder = decoder
    this.span = span
    this.rateLimits = undefined
  }

  readonly seen = (chunk: Chunk.Chunk<LlmStreamPart>): Chunk.Chunk<LlmStreamPart> => {
    if (!this.hadContent) {
      this.hadContent = true
      this.first = this.clock?.unsafeCurrentTimeNanos()
      if (this.first !== undefined) {
        this.span?.attribute("gen_ai.response.time_to_first_chunk", seconds(this.started, this.first))
      }
    }
    const last = Option.getOrUndefined(Chunk.last(chunk))
    if (last?.type !== "finish") return chunk
    this.finish = last
    for (const [name, value] of Object.entries(Telemetry.responseAttributes(last))) this.span?.attribute(name, value)
    if (this.rateLimits === undefined) return chunk
    return Chunk.append(Chunk.dropRight(chunk, 1), { ...last, rateLimits: this.rateLimits })
  }

  /** Records the metrics, with the usage as far as it was said: also of an answer that nobody waited for. */
  record(operation: Telemetry.Operation): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeNanos, (now) => {
      const { failed, finish, first } = this
      const recorded = Telemetry.record(operation, seconds(this.started, now), {
        usage: finish?.usage ?? failed?.usage ?? this.decoder?.usage() ?? {},
        model: finish?.model ?? this.decoder?.partial().model,
        error: failed?.reason ?? (finish === undefined ? "cancelled" : undefined)
      })
      return first === undefined
        ? recorded
        : Effect.zipRight(Telemetry.recordFirstChunk(operation, seconds(this.started, first)), recorded)
    })
  }
}
