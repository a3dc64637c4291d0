/**
 * One operation of the driver as an Effect: it is aborted when its fiber is interrupted and when its time is up, its
 * errors are typed, and what it leaves behind after that is seen by nobody and counted by `Background`.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import { type At, toConnectionError } from "./errors.ts"

const interrupted = new Error("the operation was interrupted")
const late = new Error("the operation ran into its limit of time")

/** The driver's promises that nobody waits for any more: cursors that are being closed, sessions that end. */
export interface Background {
  readonly add: (promise: Promise<unknown>) => void
  /** Resolves when all of them are settled. */
  readonly settled: () => Promise<void>
}

export const makeBackground = (): Background => {
  const open = new Set<Promise<unknown>>()
  return {
    add: (promise) => {
      const done = (): void => {
        open.delete(promise)
      }
      open.add(promise)
      promise.then(done, done)
    },
    settled: async () => {
      while (open.size > 0) await Promise.allSettled([...open])
    }
  }
}

export const timeoutError = (at: At, millis: number, write: boolean): ConnectionError =>
  new ConnectionError({
    reason: "Timeout",
    kind: at.kind,
    connection: at.name,
    method: at.method,
    description: `no answer within ${millis} ms${write ? ": whether it was done is not known" : ""}`
  })

/** What an operation can be told. */
export interface Told {
  readonly signal: AbortSignal
  /** Whether nobody waits for it any more. */
  readonly abandoned: () => boolean
}

/**
 * Runs the driver's promise. The limit is one of the socket's time, not of a test's clock: it is what keeps a server that
 * says nothing from holding the socket.
 *
 * An interruption aborts it at once, or after `grace` milliseconds: what opens a cursor is let finish where that is
 * quick, for an answer that is lost would leave the cursor open on the server.
 */
export const attempt = <A>(
  at: At,
  limit: number,
  write: boolean,
  f: (signal: AbortSignal, told: Told) => Promise<A>,
  options: {
    readonly controller?: AbortController | undefined
    readonly grace?: number | undefined
    /** The driver may send it once more by itself: what kept the repetition from being sent says nothing of the first. */
    readonly resends?: boolean | undefined
  } = {}
): Effect.Effect<A, ConnectionError> =>
  Effect.async<A, ConnectionError>((resume) => {
    const controller = options.controller ?? new AbortController()
    let abandoned = false
    let timer = setTimeout(() => {
      resume(timeoutError(at, limit, write))
      abandoned = true
      controller.abort(late)
    }, limit)
    start(() => f(controller.signal, { signal: controller.signal, abandoned: () => abandoned })).then(
      (value) => {
        clearTimeout(timer)
        resume(Effect.succeed(value))
      },
      (thrown) => {
        clearTimeout(timer)
        resume(Effect.fail(toConnectionError(at, thrown, options.resends)))
      }
    )
    return Effect.sync(() => {
      clearTimeout(timer)
      abandoned = true
      if (options.grace === undefined) controller.abort(interrupted)
      else timer = setTimeout(() => controller.abort(interrupted), options.grace)
    })
  })

/** What the driver throws at once is a rejection like others. */
const start = <A>(f: () => Promise<A>): Promise<A> => {
  try {
    return f()
  } catch (thrown) {
    return Promise.reject(thrown)
  }
}

/** Waits for a promise that cannot be aborted, at most so many milliseconds. Nothing is known of it after that. */
export const within = (millis: number, promise: Promise<unknown>): Effect.Effect<"done" | "late"> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.succeed("late")), millis)
    const done = (): void => {
      clearTimeout(timer)
      resume(Effect.succeed("done"))
    }
    promise.then(done, done)
    return Effect.sync(() => clearTimeout(timer))
  })

/**
 * Has the driver's cursor abort the requests for further batches too. The driver (7.8) gives the signal to the first
 * request only; where a later version keeps its options elsewhere, such a request ends with the server's answer.
 */
export const arm = (cursor: unknown, signal: AbortSignal): void => {
  if (typeof cursor !== "object" || cursor === null) return
  const options: unknown = Reflect.get(cursor, "cursorOptions")
  if (typeof options === "object" && options !== null && !("signal" in options)) Object.assign(options, { signal })
}
