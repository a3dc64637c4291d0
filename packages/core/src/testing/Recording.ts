/**
 * Records what a program shows of itself: spans, log lines and metrics. For tests that a client is watched as it should
 * be, and that an internal layer emits nothing at all.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FiberRef from "effect/FiberRef"
import * as HashSet from "effect/HashSet"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as Schema from "effect/Schema"
import type * as Tracer from "effect/Tracer"
import * as RecordingLogger from "./RecordingLogger.ts"
import * as RecordingMetrics from "./RecordingMetrics.ts"
import * as RecordingTracer from "./RecordingTracer.ts"

/**
 * Something was emitted where nothing should be.
 *
 * @since 0.1.0
 * @category errors
 */
export class NotSilent extends Schema.TaggedError<NotSilent>("@underlay/core/testing/NotSilent")("NotSilent", {
  spans: Schema.Array(Schema.String),
  lines: Schema.Array(Schema.String),
  metrics: Schema.Array(Schema.String)
}) {
  override get message(): string {
    const some = (what: string, names: ReadonlyArray<string>): ReadonlyArray<string> =>
      names.length === 0 ? [] : [`${names.length} ${what} (${[...new Set(names)].slice(0, 5).join(", ")})`]
    return `emitted ${[...some("spans", this.spans), ...some("log lines", this.lines), ...some("metrics", this.metrics)].join(", ")}`
  }
}

/**
 * What was recorded since it was made, or last cleared.
 *
 * @since 0.1.0
 * @category tags
 */
export class Recording extends Context.Tag("@underlay/core/testing/Recording")<
  Recording,
  {
    /** In the order in which they started. */
    readonly spans: Effect.Effect<ReadonlyArray<RecordingTracer.RecordedSpan>>
    /** The spans whose parent is this one. */
    readonly childrenOf: (span: Tracer.AnySpan) => Effect.Effect<ReadonlyArray<RecordingTracer.RecordedSpan>>
    readonly lines: Effect.Effect<ReadonlyArray<RecordingLogger.RecordedLine>>
    /** What changed in the registry of metrics, which is one for the whole process. */
    readonly metrics: Effect.Effect<ReadonlyArray<RecordingMetrics.MetricChange>>
    readonly clear: Effect.Effect<void>
    /** Runs the effect with this recording's tracer and logger. */
    readonly within: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  }
>() {}

interface Parts {
  readonly tracer: RecordingTracer.RecordingTracer
  readonly logger: RecordingLogger.RecordingLogger
  readonly service: typeof Recording.Service
}

const parts = Effect.sync((): Parts => {
  const tracer = RecordingTracer.make()
  const logger = RecordingLogger.make()
  const loggers = HashSet.make(logger.logger)
  let before = RecordingMetrics.snapshot()
  return {
    tracer,
    logger,
    service: {
      spans: Effect.sync(() => tracer.spans.slice()),
      childrenOf: (span) => Effect.sync(() => RecordingTracer.childrenOf(tracer, span)),
      lines: Effect.sync(() => logger.lines.slice()),
      metrics: Effect.sync(() => RecordingMetrics.difference(before, RecordingMetrics.snapshot())),
      clear: Effect.sync(() => {
        tracer.clear()
        logger.clear()
        before = RecordingMetrics.snapshot()
      }),
      within: (effect) =>
        effect.pipe(
          Effect.withTracer(tracer.tracer),
          Effect.locally(FiberRef.currentLoggers, loggers),
          Effect.locally(FiberRef.currentMinimumLogLevel, LogLevel.All)
        )
    }
  }
})

/**
 * Makes a recording; only what runs `within` it is recorded.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<typeof Recording.Service> = Effect.map(parts, ({ service }) => service)

/**
 * Records everything that is run with the layer: it takes the place of the tracer and of all loggers, at every level.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Recording> = Layer.unwrapEffect(
  Effect.map(parts, ({ logger, service, tracer }) =>
    Layer.mergeAll(
      Layer.setTracer(tracer.tracer),
      Layer.scopedDiscard(Effect.locallyScoped(FiberRef.currentLoggers, HashSet.make(logger.logger))),
      Layer.scopedDiscard(Effect.locallyScoped(FiberRef.currentMinimumLogLevel, LogLevel.All)),
      Layer.succeed(Recording, service)
    )
  )
)

/**
 * Runs the effect and fails with `NotSilent` if it made a span, logged a line at any level or changed a metric, also if it
 * failed itself.
 *
 * @since 0.1.0
 * @category combinators
 */
export const assertSilent = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | NotSilent, R> =>
  Effect.flatMap(make, (recording) =>
    Effect.flatMap(Effect.exit(recording.within(effect)), (exit) =>
      Effect.gen(function* () {
        const spans = (yield* recording.spans).map((span) => span.name)
        const lines = (yield* recording.lines).map((line) => line.message)
        const metrics = (yield* recording.metrics).map((change) => change.name)
        if (spans.length + lines.length + metrics.length > 0) {
          return yield* new NotSilent({ spans, lines, metrics })
        }
        return yield* exit
      })
    )
  )
