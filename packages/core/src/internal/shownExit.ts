/**
 * How a call ended, as exporters of spans may show it.
 */
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as Redaction from "../operations/Redaction.ts"

/** The exit without what succeeded, and without secrets in what failed. */
export const shownExit = (exit: Exit.Exit<unknown, unknown>): Exit.Exit<void, unknown> =>
  Exit.isSuccess(exit) ? Exit.void : Exit.failCause(shownCause(exit.cause))

/**
 * The cause as exporters of spans may show it: an error whose message holds a secret is replaced, and so is one that holds
 * a request, headers and all.
 */
const shownCause = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Cause.map(cause, (error) => {
    if (typeof error !== "object" || error === null) return typeof error === "string" ? Redaction.text(error) : error
    const message: unknown = (error as { readonly message?: unknown }).message
    const holdsSecrets =
      HttpClientError.isHttpClientError(error) || (typeof message === "string" && Redaction.text(message) !== message)
    if (!holdsSecrets) return error
    const shown = Redaction.error(error)
    return Object.assign(new Error(shown.message), { name: shown.tag, stack: `${shown.tag}: ${shown.message}` })
  })
