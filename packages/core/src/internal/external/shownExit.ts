/**
 * How a call ended, as exporters of spans may show it.
 */
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as Redaction from "../../operations/Redaction.ts"
import * as shownUrl from "./shownUrl.ts"

/** The exit without what succeeded, and without secrets in what failed. */
export const shownExit = (exit: Exit.Exit<unknown, unknown>): Exit.Exit<void, unknown> =>
  Exit.isSuccess(exit) ? Exit.void : Exit.failCause(shownCause(exit.cause))

/** Tag and message of an error, without secrets: also none in the URL that an HTTP error names. */
export const shownError = (error: unknown): { readonly tag: string; readonly message: string } => {
  const shown = Redaction.error(error)
  return HttpClientError.isHttpClientError(error)
    ? { tag: shown.tag, message: Redaction.text(shownUrl.within(error.message, error.request.url)) }
    : shown
}

/** The cause as exporters of spans may show it, defects included. */
const shownCause = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Cause.match(cause, {
    onEmpty: Cause.empty as Cause.Cause<unknown>,
    onFail: (error) => Cause.fail(shown(error)),
    onDie: (defect) => Cause.die(shown(defect)),
    onInterrupt: (id) => Cause.interrupt(id),
    onSequential: (left, right) => Cause.sequential(left, right),
    onParallel: (left, right) => Cause.parallel(left, right)
  })

const maxDepth = 8

/**
 * An error as it is if it shows nothing that should not be seen. Replaced are those with a secret in their message or in
 * that of what caused them, those that hold a request, headers and all, and objects without a message, of which an
 * exporter would print every field.
 */
const shown = (error: unknown): unknown => {
  if (typeof error === "string") return Redaction.text(error)
  if (typeof error !== "object" || error === null || !holdsSecrets(error, 0)) return error
  const { message, tag } = shownError(error)
  return Object.assign(new Error(message), { name: tag, stack: `${tag}: ${message}` })
}

const holdsSecrets = (error: object, depth: number): boolean => {
  if (HttpClientError.isHttpClientError(error) || depth > maxDepth) return true
  const { cause, message } = error as { readonly cause?: unknown; readonly message?: unknown }
  if (typeof message === "string" ? Redaction.text(message) !== message : !(error instanceof Error)) return true
  return typeof cause === "string"
    ? Redaction.text(cause) !== cause
    : typeof cause === "object" && cause !== null && holdsSecrets(cause, depth + 1)
}
