/**
 * A logger that keeps every line.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as HashMap from "effect/HashMap"
import * as List from "effect/List"
import * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"

/**
 * A line as it was recorded.
 *
 * @since 0.1.0
 * @category models
 */
export interface RecordedLine {
  readonly level: LogLevel.LogLevel
  /** The parts of the message, joined by a blank. */
  readonly message: string
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: Cause.Cause<unknown>
  readonly date: Date
  /** The names of the log spans, innermost first. */
  readonly spans: ReadonlyArray<string>
  /** The tracing span that the line was logged in. */
  readonly parent: Option.Option<Tracer.AnySpan>
}

/**
 * A logger and what it recorded.
 *
 * @since 0.1.0
 * @category models
 */
export interface RecordingLogger {
  readonly logger: Logger.Logger<unknown, void>
  readonly lines: ReadonlyArray<RecordedLine>
  /** Forgets what was recorded. */
  readonly clear: () => void
}

const part = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? String(value)))

/**
 * Makes one.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (): RecordingLogger => {
  const lines: Array<RecordedLine> = []
  return {
    lines,
    clear: () => {
      lines.length = 0
    },
    logger: Logger.make((options) => {
      lines.push({
        level: options.logLevel,
        message: (Array.isArray(options.message) ? options.message : [options.message]).map(part).join(" "),
        annotations: Object.fromEntries(HashMap.entries(options.annotations)),
        cause: options.cause,
        date: options.date,
        spans: List.toArray(options.spans).map((span) => span.label),
        parent: Option.flatMap(FiberRefs.get(options.context, FiberRef.currentContext), (context) =>
          Context.getOption(context as Context.Context<Tracer.ParentSpan>, Tracer.ParentSpan)
        )
      })
    })
  }
}
