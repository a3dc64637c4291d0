/**
 * One operation of the driver as an Effect: it is aborted when its fiber is interrupted and when its time is up, its
 * errors are typed, and what it leaves behind after that is seen by nobody and counted by `Background`.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import { Abort } from "./abort.ts"
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

/** The operations of one client that are under way. */
export interface Calls {
  /** One operation more, or less, that needs a socket. */
  readonly enter: () => void
  readonly leave: () => void
  /** Those who wait for an answer, each with what ends that. */
  readonly waiting: Set<() => void>
  /** From the moment on at which the client is released. */
  released: boolean
}

export const makeCalls = (counts: { readonly enter: () => void; readonly leave: () => void }): Calls => ({
  enter: counts.enter,
  leave: counts.leave,
  waiting: new Set(),
  released: false
})

/** Nobody gets an answer any more: at once, also those who cannot be interrupted. */
export const release = (calls: Calls): void => {
  calls.released = true
  for (const end of [...calls.waiting]) end()
}

const releasedError = (at: At, sent: boolean): ConnectionError =>
  new ConnectionError({
    reason: "Closed",
    kind: at.kind,
    connection: at.name,
    method: at.method,
    description: "the connection was released",
    ...(sent ? {} : { sent })
  })

/** Fails once these are released, for those who wait for nothing of the driver. */
export const untilReleased = (at: At, calls: Calls): Effect.Effect<never, ConnectionError> =>
  Effect.async((resume) => {
    const end = (): void => resume(Effect.fail(releasedError(at, true)))
    if (calls.released) {
      end()
      return
    }
    calls.waiting.add(end)
    return Effect.sync(() => calls.waiting.delete(end))
  })

/** What an operation can be told. */
export interface Told {
  readonly signal: Abort
  /** Whether nobody waits for it any more. */
  readonly abandoned: () => boolean
}

/**
 * Runs the driver's promise. The limit is one of the socket's time, not of a test's clock: it is what keeps a server that
 * says nothing from holding the socket.
 *
 * An interruption aborts it at once, or after `grace` milliseconds: what opens a cursor is let finish where that is
 * quick, for an answer that is lost would leave the cursor open on the server. The release of its client does the same, and
 * fails it with `Closed`.
 */
export const attempt = <A>(
  at: At,
  limit: number,
  write: boolean,
  f: (signal: Abort, told: Told) => Promise<A>,
  options: {
    readonly calls?: Calls | undefined
    readonly abort?: Abort | undefined
    readonly grace?: number | undefined
    /** The driver may send it once more by itself: what kept the repetition from being sent says nothing of the first. */
    readonly resends?: boolean | undefined
  } = {}
): Effect.Effect<A, ConnectionError> =>
  Effect.suspend(() => {
    const { calls, grace } = options
    if (calls?.released === true) return Effect.fail(releasedError(at, false))
    const signal = options.abort ?? new Abort()
    let abandoned = false
    // An interruption may also come before the operation has begun, and between its answer and who waits for that.
    let awaited = false
    let timer: NodeJS.Timeout | undefined
    let end: () => void = () => undefined
    const settled = (): void => {
      awaited = false
      clearTimeout(timer)
      calls?.leave()
      calls?.waiting.delete(end)
    }
    const abandon = (): void => {
      if (!awaited) return
      awaited = false
      clearTimeout(timer)
      calls?.waiting.delete(end)
      abandoned = true
      if (grace === undefined) signal.abort(interrupted)
      else timer = setTimeout(() => signal.abort(interrupted), grace)
    }
    // The canceller is not what `async` is given: for such a one effect (3.22) makes what the collector of garbage takes
    // for old, and that costs more than all the rest of this.
    return Effect.onInterrupt(
      Effect.async<A, ConnectionError>((resume) => {
        end = () => {
          resume(Effect.fail(releasedError(at, true)))
          abandon()
        }
        timer = setTimeout(() => {
          resume(Effect.fail(timeoutError(at, limit, write)))
          calls?.waiting.delete(end)
          awaited = false
          abandoned = true
          signal.abort(late)
        }, limit)
        awaited = true
        calls?.waiting.add(end)
        calls?.enter()
        start(() => f(signal, { signal, abandoned: () => abandoned })).then(
          (value) => {
            settled()
            resume(Effect.succeed(value))
          },
          (thrown) => {
            settled()
            resume(Effect.fail(toConnectionError(at, thrown, options.resends)))
          }
        )
      }),
      () => Effect.sync(abandon)
    )
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
