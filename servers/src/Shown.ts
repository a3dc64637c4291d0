/** All that is printed of an error, in all the ways that there are: for tests of what must not be. */
import * as Util from "node:util"
import * as V8 from "node:v8"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"

const loggers: ReadonlyArray<Logger.Logger<unknown, unknown>> = [
  Logger.stringLogger,
  Logger.logfmtLogger,
  Logger.jsonLogger,
  Logger.structuredLogger
]

const inspected = (value: unknown): string => Util.inspect(value, { depth: 20 })

const logged = (error: unknown): ReadonlyArray<string> => {
  const lines: Array<string> = []
  for (const logger of loggers) {
    const kept = Logger.map(logger, (line) => {
      lines.push(typeof line === "string" ? line : inspected(line))
    })
    Effect.logError("it failed", error, Cause.fail(error)).pipe(
      Effect.annotateLogs("error", error),
      Effect.provide(Logger.replace(Logger.defaultLogger, kept)),
      Effect.runSync
    )
  }
  return lines
}

const asJson = (value: unknown): string =>
  JSON.stringify(value, (_, each: unknown) => (typeof each === "bigint" ? String(each) : each)) ?? ""

/** Effect hands on a proxy of what fails in a span, which can be printed and not cloned: what it stands for can be both. */
const originalOf = (error: Error): unknown => Reflect.get(error, Symbol.for("effect/OriginalAnnotation")) ?? error

/** What every printer makes of an error and its causes. What is hidden is shown too, except by getters. */
export const everyWay = (error: Error): ReadonlyArray<string> => {
  const cause = Cause.fail(error)
  const fiberFailure = Effect.runSyncExit(Effect.orDie(Effect.failCause(cause)))
  return [
    String(error),
    error.message,
    error.stack ?? "",
    String(error.cause),
    asJson(error),
    asJson(cause),
    asJson(Exit.fail(error)),
    asJson({ error, cause: error.cause }),
    inspected(error),
    inspected({ error, cause: error.cause }),
    inspected(cause),
    inspected(fiberFailure),
    inspected(HashMap.make(["error", error])),
    Util.inspect(error.cause, { depth: 20, showHidden: true, customInspect: false }),
    Util.format("%s %o %j", error, error.cause, error.cause),
    Cause.pretty(cause),
    Cause.pretty(cause, { renderErrorCause: true }),
    ...Cause.prettyErrors(cause).map(inspected),
    inspected(structuredClone([originalOf(error), error.cause])),
    V8.serialize(originalOf(error)).toString("latin1"),
    ...logged(error)
  ]
}
