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
  /** It ended in a defect, of which its reader has no part. */
  died = false
  hadContent = false
  /** What the headers of the attempt's response said. */
  rateLimits: RateLimits | undefined
  private span: Tracer.Span | undefined
  private operation: Telemetry.Operation | undefined
  private clock: Clock.Clock | undefined
  private started = 0n
  private first: bigint | undefined
  private last = 0n
  private perChunk: ((seconds: number) => void) | undefined
  private captureContent = false
  private finish: Extract<LlmStreamPart, { readonly type: "finish" }> | undefined

  start(clock: Clock.Clock, operation: Telemetry.Operation, captureContent: boolean): void {
    this.clock = clock
    this.operation = operation
    this.captureContent = captureContent
    this.started = clock.unsafeCurrentTimeNanos()
  }

  begin(decoder: StreamDecoder, span: Tracer.Span | undefined): void {
    this.decoder = decoder
    this.span = span
    this.rateLimits = undefined
  }

  readonly seen = (chunk: Chunk.Chunk<LlmStreamPart>): Chunk.Chunk<LlmStreamPart> => {
    if (Chunk.isEmpty(chunk)) return chunk
    const now = this.clock?.unsafeCurrentTimeNanos() ?? 0n
    if (!this.hadContent) {
      this.hadContent = true
      this.first = now
      this.span?.attribute("gen_ai.response.time_to_first_chunk", seconds(this.started, now))
    } else if (this.operation !== undefined) {
      this.perChunk ??= Telemetry.chunkRecorder(this.operation)
      this.perChunk(seconds(this.last, now))
    }
    this.last = now
    const last = Option.getOrUndefined(Chunk.last(chunk))
    if (last?.type !== "finish") return chunk
    this.finish = last
    this.annotate(Telemetry.responseAttributes(last))
    if (this.captureContent) this.annotate(Telemetry.outputAttributes(last))
    if (this.rateLimits === undefined) return chunk
    // Not by `dropRight` and `append`: Effect 3.22 loses such a slice when it is appended to a longer chunk.
    const parts = Chunk.toArray(chunk)
    parts[parts.length - 1] = { ...last, rateLimits: this.rateLimits }
    return Chunk.unsafeFromArray(parts)
  }

  private annotate(attributes: Readonly<Record<string, unknown>>): void {
    for (const [name, value] of Object.entries(attributes)) this.span?.attribute(name, value)
  }

  /** Records the metrics, with the usage as far as it was said: also of an answer that nobody waited for. */
  readonly record: Effect.Effect<void> = Effect.flatMap(Clock.currentTimeNanos, (now) => {
    const { failed, finish, first, operation } = this
    if (operation === undefined) return Effect.void
    const recorded = Telemetry.record(operation, seconds(this.started, now), {
      usage: finish?.usage ?? failed?.usage ?? this.decoder?.usage() ?? {},
      model: finish?.model ?? this.decoder?.partial().model,
      error: failed?.reason ?? (finish === undefined ? (this.died ? "defect" : "cancelled") : undefined)
    })
    return first === undefined
      ? recorded
      : Effect.zipRight(Telemetry.recordFirstChunk(operation, seconds(this.started, first)), recorded)
  })
}
