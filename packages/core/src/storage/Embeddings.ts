/**
 * The port of embeddings: texts as vectors whose nearness is nearness in meaning, or at least in words.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as FeatureHashing from "../internal/featureHashing.ts"

/**
 * Why embedding failed.
 *
 * @since 0.1.0
 * @category errors
 */
export const EmbeddingsErrorReason = Schema.Literal(
  "Authentication",
  "PermissionDenied",
  "NotFound",
  "InvalidRequest",
  "ContextLengthExceeded",
  "ContentFiltered",
  "RateLimited",
  "QuotaExhausted",
  "Timeout",
  "Unavailable",
  "MalformedResponse",
  "Unknown"
)
/**
 * @since 0.1.0
 * @category errors
 */
export type EmbeddingsErrorReason = typeof EmbeddingsErrorReason.Type

/**
 * The one error of embeddings. `description` holds no text that was embedded.
 *
 * - `ContextLengthExceeded`: a text is longer than the model takes. `QuotaExhausted`: the account's, which no waiting mends.
 *   `Unavailable`: overloaded, failed, not reached, or left alone for a while.
 * - `retryable`: whether the same request may succeed later, where that is known better than the reason tells.
 * - `inputs`: which of the texts it is about, by their positions from 0; the end is not among them.
 *
 * @since 0.1.0
 * @category errors
 */
export class EmbeddingsError extends Schema.TaggedError<EmbeddingsError>()("EmbeddingsError", {
  reason: EmbeddingsErrorReason,
  method: Schema.String,
  description: Schema.String,
  retryable: Schema.optionalWith(Schema.Boolean, { exact: true }),
  retryAfter: Schema.optionalWith(Schema.DurationFromSelf, { exact: true }),
  inputs: Schema.optionalWith(Schema.Struct({ start: Schema.Number, end: Schema.Number }), { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  /** Whether the same request may succeed later. */
  get isRetryable(): boolean {
    return (
      this.retryable ?? (this.reason === "RateLimited" || this.reason === "Timeout" || this.reason === "Unavailable")
    )
  }

  /** How policies treat it: they wait for rate limits, retry what is transient, and give up at once otherwise. */
  get errorClass(): "transient" | "rate-limited" | "permanent" {
    if (!this.isRetryable) return "permanent"
    return this.reason === "RateLimited" ? "rate-limited" : "transient"
  }

  override get message(): string {
    return `Embeddings.${this.method}: ${this.reason}: ${this.description}`
  }
}

/**
 * Turns texts into vectors of `dimensions` numbers. Vectors of two `model`s cannot be compared: keep the model's name
 * with what you store.
 *
 * @since 0.1.0
 * @category tags
 */
export class Embeddings extends Context.Tag("@underlay/core/Embeddings")<
  Embeddings,
  {
    readonly model: string
    readonly dimensions: number
    readonly embed: (text: string) => Effect.Effect<ReadonlyArray<number>, EmbeddingsError>
    readonly embedMany: (
      texts: ReadonlyArray<string>
    ) => Effect.Effect<ReadonlyArray<ReadonlyArray<number>>, EmbeddingsError>
  }
>() {}

/**
 * @since 0.1.0
 * @category models
 */
export interface LocalOptions {
  /** 64 to 8192; 1024 by default. More dimensions, fewer features that fall together. */
  readonly dimensions?: number | undefined
}

/**
 * Embeddings without a key, a model or a network: English words, their stems, pairs of words and runs of letters are
 * hashed into a vector of length one. It knows words and their spelling, typing errors included, but no meaning: it
 * does not know that "disk" and "storage" are near. The same text gives the same vector on every machine.
 *
 * After Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (2009).
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeLocal = (options?: LocalOptions): Effect.Effect<Context.Tag.Service<Embeddings>, EmbeddingsError> =>
  Effect.suspend(() => {
    const dimensions = options?.dimensions ?? 1024
    if (!Number.isInteger(dimensions) || dimensions < 64 || dimensions > 8192) {
      return new EmbeddingsError({
        reason: "InvalidRequest",
        method: "makeLocal",
        description: "dimensions must be a whole number, 64 to 8192"
      })
    }
    return Effect.succeed(
      Embeddings.of({
        model: `${FeatureHashing.model}-${dimensions}`,
        dimensions,
        embed: (text) => Effect.sync(() => FeatureHashing.embed(text, dimensions)),
        embedMany: (texts) =>
          Effect.forEach(texts, (text, index) => {
            const one = Effect.sync(() => FeatureHashing.embed(text, dimensions))
            // A long list must not hold up everybody else.
            return index % 64 === 63 ? Effect.zipLeft(one, Effect.yieldNow()) : one
          })
      })
    )
  })

/**
 * The local embeddings as a layer. Dimensions out of range are a defect.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerLocal = (options?: LocalOptions): Layer.Layer<Embeddings> =>
  Layer.effect(Embeddings, Effect.orDie(makeLocal(options)))
