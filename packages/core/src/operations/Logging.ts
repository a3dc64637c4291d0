/**
 * Log lines for programs and people: one line an entry, as JSON or as text, with the correlation id and the span of the
 * place that logs, and without secrets.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Either from "effect/Either"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as List from "effect/List"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import * as Correlation from "./Correlation.ts"
import * as Redaction from "./Redaction.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** `json` (the default): one JSON object a line. `text`: one readable line. */
  readonly format?: "json" | "text" | undefined
  /** The lowest level that is logged; by default `Info`. */
  readonly level?: LogLevel.LogLevel | LogLevel.Literal | undefined
  /** Where lines go; by default `stderr`, so that what the program prints stays apart. */
  readonly destination?: "stdout" | "stderr" | undefined
}

/**
 * One entry, as it is written in JSON.
 *
 * @since 0.1.0
 * @category models
 */
export interface Entry {
  readonly timestamp: string
  readonly level: string
  readonly message: string
  readonly correlationId?: string
  readonly traceId?: string
  readonly spanId?: string
  readonly fiber: string
  /** What was logged beside text. */
  readonly data?: unknown
  readonly annotations?: Readonly<Record<string, unknown>>
  /** The log spans that are open, with the milliseconds that each has lasted. */
  readonly spans?: Readonly<Record<string, number>>
  readonly cause?: string
}

/**
 * The entry for a log call: the correlation id and the span are read where it is logged, secrets are taken out in depth.
 *
 * @since 0.1.0
 * @category constructors
 */
export const entry = (options: Logger.Logger.Options<unknown>): Entry => {
  const context = Option.getOrElse(FiberRefs.get(options.context, FiberRef.currentContext), () => Context.empty())
  const span = Context.getOption(context, Tracer.ParentSpan)
  const parts: ReadonlyArray<unknown> = Array.isArray(options.message) ? options.message : [options.message]
  const texts = parts.filter(
    (part) => typeof part === "string" || typeof part === "number" || typeof part === "boolean"
  )
  const data = parts.filter((part) => !texts.includes(part as string) && part !== undefined).map(Redaction.json)
  const annotations: Record<string, unknown> = {}
  let correlationId = Option.getOrUndefined(Correlation.fromFiberRefs(options.context))
  for (const [name, value] of Array.from(options.annotations).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (name === Correlation.logAnnotation && typeof value === "string") {
      correlationId = value
    } else {
      annotations[name] = value
    }
  }
  const spans: Record<string, number> = {}
  for (const one of List.toArray(options.spans)) {
    spans[one.label] = options.date.getTime() - one.startTime
  }
  return {
    timestamp: options.date.toISOString(),
    level: options.logLevel.label,
    message: texts.map((text) => Redaction.text(String(text))).join(" "),
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(Option.isNone(span) ? {} : { traceId: span.value.traceId, spanId: span.value.spanId }),
    fiber: FiberId.threadName(options.fiberId),
    ...(data.length === 0 ? {} : { data: data.length === 1 ? data[0] : data }),
    ...(HashMap.isEmpty(options.annotations) || Object.keys(annotations).length === 0
      ? {}
      : { annotations: Redaction.record(annotations) }),
    ...(Object.keys(spans).length === 0 ? {} : { spans }),
    ...(Cause.isEmpty(options.cause)
      ? {}
      : { cause: Redaction.text(Cause.pretty(options.cause, { renderErrorCause: true })) })
  }
}

const bare = /^[\p{L}\p{N}_./:@%+,;<>()[\]{}|~^*?!$&#-]+$/u

// Line breaks and control characters are escaped, so that nothing that is logged can pass for another line.
const quoted = (value: unknown): string => {
  const text = typeof value === "string" ? value : JSON.stringify(value)
  return bare.test(text) ? text : escaped(JSON.stringify(text))
}

const escaped = (text: string): string =>
  text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not get through
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

const asText = (made: Entry): string => {
  const pairs: Array<readonly [string, unknown]> = [
    ...Object.entries(made.annotations ?? {}),
    ...Object.entries(made.spans ?? {}).map(([name, millis]) => [name, `${millis}ms`] as const),
    ...(made.data === undefined ? [] : [["data", made.data] as const]),
    ...(made.correlationId === undefined ? [] : [[Correlation.logAnnotation, made.correlationId] as const]),
    ...(made.traceId === undefined ? [] : [["traceId", made.traceId] as const]),
    ...(made.cause === undefined ? [] : [["cause", made.cause] as const])
  ]
  const head = `${made.timestamp} ${made.level.padEnd(5)} ${escaped(made.message)}`
  return pairs.length === 0
    ? head.trimEnd()
    : `${head} ${pairs.map(([name, value]) => `${quoted(name)}=${quoted(value)}`).join(" ")}`
}

const guarded =
  (write: (made: Entry) => string) =>
  (options: Logger.Logger.Options<unknown>): string =>
    Either.getOrElse(
      Either.try(() => write(entry(options))),
      () =>
        write({
          timestamp: options.date.toISOString(),
          level: options.logLevel.label,
          message: "an entry that could not be written: reading it failed",
          fiber: FiberId.threadName(options.fiberId)
        })
    )

/**
 * Entries as one line of JSON each.
 *
 * @since 0.1.0
 * @category constructors
 */
export const jsonLogger: Logger.Logger<unknown, string> = Logger.make(guarded((made) => JSON.stringify(made)))

/**
 * Entries as one readable line each: time, level, message, then `name=value`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const textLogger: Logger.Logger<unknown, string> = Logger.make(guarded(asText))

/**
 * Replaces Effect's logger by one that writes each entry as one line, and sets the lowest level. Lines go through Effect's
 * `Console`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<never> => {
  const lines = options.format === "text" ? textLogger : jsonLogger
  const level = options.level ?? LogLevel.Info
  const written = options.destination === "stdout" ? Logger.withConsoleLog(lines) : Logger.withConsoleError(lines)
  // One after the other: built side by side, as `Layer.merge` does, they would not be taken out again when the scope closes.
  return Layer.provideMerge(
    Logger.minimumLogLevel(typeof level === "string" ? LogLevel.fromLiteral(level) : level),
    Logger.replace(Logger.defaultLogger, written)
  )
}
