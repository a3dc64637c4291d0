/**
 * One connection of `pg` as a session: statements run one after another in a queue of our own, so that one that only waits
 * can be taken back without harm; one that runs is cancelled on the server by this connection's own key, and the
 * connection is not lent again.
 */
import * as Net from "node:net"
import type * as Tls from "node:tls"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type * as Pg from "pg"
import { type Outcome, outside, type Pull, type Request, type Result, type Session } from "../sql/session.ts"
import { toConnectionError } from "../sql/sqlState.ts"
import { cancel } from "./cancel.ts"
import type { Statements } from "./prepared.ts"
import { CopyQuery, OtherColumns, type Prepared, RowsQuery, StatementQuery, type Types, type Wire } from "./query.ts"

export interface Options {
  readonly kind: string
  readonly name: string
  readonly driver: { readonly Client: typeof Pg.Client; readonly types: Types }
  /** Asked for each connection, so that a password may change. */
  readonly config: Effect.Effect<Pg.ClientConfig, ConnectionError>
  readonly connectTimeout: Duration.Duration
  /** How long a cancelled statement may take to end before its connection is cut. */
  readonly cancelTimeout: Duration.Duration
  /** The server's own limit; the client gives up a second later, should the network be gone. */
  readonly statementTimeout: Duration.Duration | undefined
  /** The statements that are prepared, of all connections; undefined for none. */
  readonly statements: Statements | undefined
}

/** As with a `Request`. */
export interface CopyOptions {
  readonly timeout?: number | undefined
  readonly within?: boolean | undefined
}

/** Chunks of COPY on their way to the server. */
export interface CopyIn {
  /** Sends a chunk; done when there is room for the next. It fails with the server's error as soon as there is one. */
  readonly send: (chunk: Uint8Array) => Effect.Effect<void, ConnectionError>
  /** Fails when the server gives up, also while nothing is sent. */
  readonly failed: Effect.Effect<never, ConnectionError>
  /** All is sent: how many rows were stored. */
  readonly end: Effect.Effect<number, ConnectionError>
}

export interface PostgresSession extends Session {
  readonly stream: (request: Request) => Effect.Effect<Pull, ConnectionError, Scope.Scope>
  readonly copyIn: (sql: string, options?: CopyOptions) => Effect.Effect<CopyIn, ConnectionError, Scope.Scope>
  readonly copyOut: (
    sql: string,
    options?: CopyOptions
  ) => Effect.Effect<Pull<Uint8Array>, ConnectionError, Scope.Scope>
  /** Messages of LISTEN. While the listener is behind, nothing is read: see `pause`. */
  readonly onNotification: (
    listener: (message: { readonly channel: string; readonly payload: string; readonly processId: number }) => void
  ) => void
  readonly pause: () => void
  readonly resume: () => void
  readonly isUsable: () => boolean
  /** Whether it was given up because nothing came from the other side. */
  readonly isSilent: () => boolean
  readonly onGone: (listener: () => void) => void
  readonly end: Effect.Effect<void>
}

// What `pg` has and its types leave out.
interface Internals {
  readonly processID: number | null
  readonly secretKey: number | null
  readonly host: string
  readonly port: number
  readonly ssl: boolean | Tls.ConnectionOptions
  readonly connection: Wire & {
    readonly on: (event: "readyForQuery" | "parseComplete", listener: () => void) => void
  }
  readonly query: (query: Query) => unknown
  readonly getTransactionStatus: () => "I" | "T" | "E" | null
}

type Query = StatementQuery | RowsQuery | CopyQuery

/** Something that is run: a statement, a stream, a COPY. */
class Job {
  /** Made when its turn comes: what is prepared by then, those before it decide. */
  query: Query | undefined
  readonly queryOf: (job: Job) => Query
  readonly method: string
  readonly final: boolean
  readonly within: boolean
  /** Told once, when the session is ready for the next. */
  readonly done: (error: ConnectionError | undefined) => void
  error: unknown
  failed = false
  /** Nobody waits for it. */
  abandoned = false
  /** A request to cancel it was sent. */
  cancelled = false
  timedOut = false
  /** How many of its PARSE are confirmed. */
  parses = 0
  timer: NodeJS.Timeout | undefined
  /** How it is ended when its time is over, without a request to cancel it; false if that is not possible now. */
  giveUp: (() => boolean) | undefined

  constructor(
    method: string,
    done: Job["done"],
    queryOf: (job: Job) => Query,
    { final, within }: { readonly final?: boolean | undefined; readonly within?: boolean | undefined } = {}
  ) {
    this.method = method
    this.final = final === true
    this.within = within === true
    this.done = done
    this.queryOf = queryOf
  }

  fail(error: unknown): void {
    if (this.failed) return
    this.failed = true
    this.error = error
  }
}

const codeOf = (error: unknown): string | undefined =>
  typeof error === "object" && error !== null && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined

const isStale = (error: unknown): boolean => {
  const code = codeOf(error)
  if (code === "26000" || code === "42P05") return true
  return (
    code === "0A000" &&
    typeof error === "object" &&
    error !== null &&
    "routine" in error &&
    error.routine === "RevalidateCachedQuery"
  )
}

/**
 * Connects. The session is handed to `made` at the moment it exists, so that it has an owner even if the fiber that
 * waits for it is interrupted in that moment.
 */
export const connect = (
  options: Options,
  made: (session: PostgresSession) => void
): Effect.Effect<void, ConnectionError> => {
  const at = (method: string) => ({ kind: options.kind, name: options.name, method })

  const prepared = Effect.flatMap(options.config, (config) =>
    Effect.try({
      try: () => {
        const socket = new Net.Socket()
        return { socket, client: new options.driver.Client({ ...config, stream: () => socket }) }
      },
      catch: (cause) =>
        new ConnectionError({
          ...at("connect"),
          connection: options.name,
          reason: "InvalidSettings",
          description: "the driver does not take the settings: `original` says which",
          sent: false,
          cause
        })
    })
  )

  const open = (client: Pg.Client, socket: Net.Socket) =>
    Effect.async<void, ConnectionError>((resume) => {
      let unwanted = false
      // Without a listener a lost connection would end the process.
      client.on("error", () => {})
      client.connect((error: Error | null) => {
        // What was read before the socket was destroyed can still make it "connected".
        if (unwanted) return
        if (error === null || error === undefined) {
          made(sessionOf(options, client, socket))
          return resume(Effect.void)
        }
        socket.destroy()
        resume(Effect.fail(toConnectionError(at("connect"), error)))
      })
      return Effect.sync(() => {
        unwanted = true
        socket.destroy()
      })
    })

  const opened = Effect.flatMap(prepared, ({ client, socket }) => open(client, socket))
  // A fiber that fails would be logged by the runtime.
  const outcome = Effect.timeoutFail(Effect.either(opened), {
    duration: options.connectTimeout,
    onTimeout: () =>
      new ConnectionError({
        ...at("connect"),
        connection: options.name,
        reason: "Timeout",
        sent: false,
        description: `no connection within ${Duration.format(options.connectTimeout)}: does something else answer there?`
      })
  })
  return Effect.flatten(outcome)
}

const sessionOf = (options: Options, client: Pg.Client, socket: Net.Socket): PostgresSession => {
  const internals = client as unknown as Internals
  const { types } = options.driver
  const at = (method: string) => ({ kind: options.kind, name: options.name, method })
  // Timers of Node take less than 2^31 ms.
  const cancelMillis = Math.min(Duration.toMillis(options.cancelTimeout), 2 ** 29)
  const limit = options.statementTimeout === undefined ? undefined : Duration.toMillis(options.statementTimeout) + 1_000
  const plan = options.statements?.session()
  // Asked for now, since a socket that is lost says nothing.
  const { remoteAddress, remotePort } = socket
  const address =
    remoteAddress === undefined || remotePort === undefined ? undefined : { host: remoteAddress, port: remotePort }
  const queue: Array<Job> = []
  const goneListeners: Array<() => void> = []
  let idleListeners: Array<() => void> = []
  let active: Job | undefined
  let alive = true
  let marked = false
  let cancelling = false
  /** Nothing came from the other side in the time that it had. */
  let silent = false
  /** It is being released. */
  let ending = false
  /** A request to cancel may still arrive, so that the next thing sent must be one that nobody needs. */
  let doubtful = false

  const unusable = (method: string) =>
    new ConnectionError({
      ...at(method),
      connection: options.name,
      reason: ending ? "Closed" : "Unavailable",
      sent: false,
      description: ending ? "the connection was released" : "the connection is gone"
    })

  const late = (job: Job) =>
    new ConnectionError({
      ...at(job.method),
      connection: options.name,
      reason: "Timeout",
      description: "the statement did not end within its timeout",
      ...(job.failed ? { code: codeOf(job.error) ?? "57014", cause: job.error } : {})
    })

  const quiet = (): void => {
    if (active !== undefined || queue.length > 0 || cancelling) return
    const listeners = idleListeners
    idleListeners = []
    for (const listener of listeners) listener()
  }

  const settle = (job: Job, error: ConnectionError | undefined): void => {
    if (job.timer !== undefined) clearTimeout(job.timer)
    if (!job.abandoned) job.done(error)
  }

  const pump = (): void => {
    if (active !== undefined || cancelling) return
    // Nothing that is written now would be sent, and that it is closed is told in a moment.
    if (!alive || !internals.connection.stream.writable) {
      alive = false
      for (let job = queue.shift(); job !== undefined; job = queue.shift()) settle(job, unusable(job.method))
      quiet()
      return
    }
    if (doubtful) {
      doubtful = false
      active = jobOf(flush, () => {})
    } else {
      let next = queue.shift()
      // Its transaction never began, or was ended: by itself it would be stored whatever becomes of the others.
      while (next?.within === true && internals.getTransactionStatus() === "I") {
        settle(next, outside(options, next.method))
        // Who was told may have asked for more.
        if (active !== undefined) return
        next = queue.shift()
      }
      active = next
    }
    if (active === undefined) quiet()
    else {
      active.query = active.queryOf(active)
      internals.query(active.query)
    }
  }

  /** What runs is over and the server is ready for the next. */
  const ready = (): void => {
    const job = active
    if (job === undefined) return
    active = undefined
    // That it was cancelled shows that the request has arrived; else it may still come.
    if (job.cancelled && !(job.failed && codeOf(job.error) === "57014")) doubtful = true
    if (job.failed && isStale(job.error) && again(job)) return
    if (!job.failed) learn(job)
    else if (job.error instanceof OtherColumns && job.query?.prepared !== undefined)
      plan?.forget(job.query.prepared.name)
    settle(job, job.failed ? errorOf(job) : undefined)
    pump()
  }

  const errorOf = (job: Job): ConnectionError => {
    if (job.timedOut && codeOf(job.error) === "57014") return late(job)
    if (job.error instanceof OtherColumns) {
      return new ConnectionError({
        ...at(job.method),
        connection: options.name,
        reason: "Unknown",
        description:
          "the statement was run, and its rows have other columns than when it was prepared: behind a pooler whose " +
          "tables change under it, set `prepare` to false"
      })
    }
    if (job.query?.prepared === undefined || !isStale(job.error)) return toConnectionError(at(job.method), job.error)
    return new ConnectionError({
      ...at(job.method),
      connection: options.name,
      reason: "Conflict",
      code: codeOf(job.error) ?? "0A000",
      description: "a table was changed after the statement was prepared: run the transaction again",
      cause: job.error
    })
  }

  /** The columns of what was prepared need not be told again. */
  const learn = ({ query }: Job): void => {
    if (plan === undefined || !(query instanceof StatementQuery) || query.prepared === undefined) return
    if (query.prepared.fields === undefined) plan.described(query.prepared.name, query.fields)
  }

  /** A statement whose plan the server has dropped did nothing: outside a transaction it is sent once more. */
  const again = (job: Job): boolean => {
    const { query } = job
    const name = query?.prepared?.name
    if (name === undefined || plan === undefined || !(query instanceof StatementQuery)) return false
    plan.forget(name)
    if (internals.getTransactionStatus() !== "I" || job.abandoned) return false
    job.failed = false
    job.error = undefined
    job.query = statementOf(job, query.request, undefined)
    active = job
    internals.query(job.query)
    return true
  }

  const cut = (): void => {
    silent = true
    socket.destroy()
  }

  const lost = (error: unknown): void => {
    if (!alive) return
    alive = false
    if (codeOf(error) === "ETIMEDOUT" || codeOf(error) === "EHOSTUNREACH") silent = true
    const job = active
    active = undefined
    if (job !== undefined) {
      settle(
        job,
        job.failed
          ? errorOf(job)
          : job.timedOut
            ? late(job)
            : error === undefined
              ? toConnectionError(at(job.method), new Error("Connection terminated"))
              : toConnectionError(at(job.method), error)
      )
    }
    pump()
  }

  client.on("error", lost)
  client.on("end", () => {
    lost(undefined)
    for (const listener of goneListeners) listener()
  })
  internals.connection.on("readyForQuery", ready)
  internals.connection.on("parseComplete", () => {
    const job = active
    const query = job?.query
    if (job === undefined || query?.prepared === undefined) return
    job.parses++
    if (job.parses === (query.request.begin === undefined ? 1 : 2)) plan?.parsed(query.prepared.name)
  })

  const statementOf = (job: Job, request: Request, prepared: Prepared | undefined): StatementQuery =>
    new StatementQuery(request, prepared, types, (error) => job.fail(error))

  const jobOf = (request: Request, done: Job["done"]): Job =>
    new Job(
      "execute",
      done,
      (job) => statementOf(job, request, request.params.length > 0 ? plan?.prepare(request.sql) : undefined),
      request
    )

  /** Asks the server to cancel what runs, and cuts the connection if it does not answer in time. */
  const stop = (job: Job): void => {
    marked = true
    if (job.timer !== undefined) clearTimeout(job.timer)
    job.timer = setTimeout(cut, cancelMillis * 2)
    // A later statement may be interrupted while the first request is still on its way: one is enough, since what
    // follows waits for it.
    if (job.cancelled || cancelling || !alive) return
    job.cancelled = true
    cancelling = true
    const { host, port, processID, secretKey, ssl } = internals
    cancel({ address, host, port, processID, secretKey, ssl }, cancelMillis, () => {
      cancelling = false
      pump()
    })
  }

  const overdue = (job: Job): void => {
    job.timedOut = true
    if (job !== active) {
      const index = queue.indexOf(job)
      if (index >= 0) queue.splice(index, 1)
      settle(job, late(job))
      return
    }
    if (job.final) {
      marked = true
      cut()
    } else if (job.giveUp?.() === true) job.timer = setTimeout(cut, cancelMillis * 2)
    else stop(job)
  }

  const enqueue = (job: Job, timeout: number | undefined): void => {
    if (!alive || ending) {
      settle(job, unusable(job.method))
      return
    }
    // What ends a transaction has a limit of its own: to give up before the server answers is what makes it unknown.
    const within = timeout === undefined ? limit : limit === undefined || job.final ? timeout : Math.min(timeout, limit)
    if (within !== undefined && Number.isFinite(within)) {
      job.timer = setTimeout(() => overdue(job), Math.min(within, 2 ** 31 - 1))
    }
    queue.push(job)
    pump()
  }

  const abandon = (job: Job): void => {
    if (job.abandoned) return
    if (job === active) {
      job.abandoned = true
      stop(job)
      return
    }
    const index = queue.indexOf(job)
    if (index < 0) return
    job.abandoned = true
    queue.splice(index, 1)
    if (job.timer !== undefined) clearTimeout(job.timer)
    quiet()
  }

  const submit = (request: Request, done: (outcome: Outcome) => void): (() => void) => {
    const job: Job = jobOf(request, (error) => {
      const { query } = job
      // Whoever holds the job need not hold its rows.
      job.query = undefined
      if (error !== undefined) done(error)
      else done(query instanceof StatementQuery ? query.result : nothing)
    })
    enqueue(job, request.timeout)
    return () => abandon(job)
  }

  const stream = (request: Request) =>
    flow(
      "stream",
      1024,
      () => 1,
      (job, push) => new RowsQuery(request, types, (error) => job.fail(error), push),
      request
    )

  const copyOut = (sql: string, limits: CopyOptions = {}) =>
    flow<Uint8Array>(
      "copyOut",
      1 << 18,
      (chunk) => chunk.length,
      (job, push) =>
        new CopyQuery(
          { sql, params: [], rows: "array" },
          types,
          (error) => job.fail(error),
          (wire) => wire.sendCopyFail("its rows come by copyIn"),
          // The driver uses its buffer again.
          (chunk) => push(Uint8Array.prototype.slice.call(chunk))
        ),
      limits
    )

  /** What comes in pieces. While the consumer is behind, nothing is read from the socket. */
  const flow = <A>(
    method: string,
    high: number,
    sizeOf: (piece: A) => number,
    queryOf: (job: Job, push: (piece: A) => void) => Query,
    { timeout, within }: CopyOptions
  ): Effect.Effect<Pull<A>, ConnectionError, Scope.Scope> =>
    Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => {
          const state: { buffer: Array<A>; size: number; ended: boolean; dropped: boolean } = {
            buffer: [],
            size: 0,
            ended: false,
            dropped: false
          }
          let error: ConnectionError | undefined
          let wake: (() => void) | undefined
          const wire = () => internals.connection.stream
          const push = (piece: A): void => {
            if (state.dropped) return
            state.buffer.push(piece)
            state.size += sizeOf(piece)
            if (state.size >= high) wire().pause()
            wake?.()
          }
          const job = new Job(
            method,
            (failure) => {
              state.ended = true
              error = failure
              wake?.()
            },
            (job) => queryOf(job, push),
            { within }
          )
          enqueue(job, timeout)
          const pull: Pull<A> = Effect.suspend(() => {
            if (state.buffer.length > 0) {
              const pieces = Chunk.unsafeFromArray(state.buffer)
              state.buffer = []
              state.size = 0
              wire().resume()
              return Effect.succeed(pieces)
            }
            if (state.ended) return Effect.fail(error === undefined ? Option.none() : Option.some(error))
            return Effect.zipRight(
              Effect.async<void>((resume) => {
                if (state.buffer.length > 0 || state.ended) return resume(Effect.void)
                wake = () => {
                  wake = undefined
                  resume(Effect.void)
                }
                return undefined
              }),
              pull
            )
          })
          const release = (): void => {
            // What is still to come has to be read before the server can say that it stopped.
            state.dropped = true
            state.buffer = []
            wire().resume()
            abandon(job)
          }
          return { pull, release }
        }),
        ({ release }) => Effect.sync(release)
      ),
      ({ pull }) => pull
    )

  const copyIn = (
    sql: string,
    { timeout, within }: CopyOptions = {}
  ): Effect.Effect<CopyIn, ConnectionError, Scope.Scope> =>
    Effect.flatMap(
      Effect.acquireRelease(
        Effect.sync(() => {
          let wire: Wire | undefined
          let over: { readonly error: ConnectionError | undefined } | undefined
          let finishing = false
          let sends = 0
          const listeners = new Set<() => void>()
          const tell = (): void => {
            for (const listener of [...listeners]) listener()
          }
          const job = new Job(
            "copyIn",
            (error) => {
              over = { error }
              tell()
            },
            (job) =>
              new CopyQuery(
                { sql, params: [], rows: "array" },
                types,
                (error) => {
                  job.fail(error)
                  // The server has given up already and says so before it has read what is still on its way.
                  tell()
                },
                (it) => {
                  wire = it
                  tell()
                },
                () => {}
              ),
            { within }
          )
          // While it waits for data the server looks at no request to cancel.
          job.giveUp = () => {
            if (wire === undefined || finishing || job.failed) return false
            wire.sendCopyFail("its time is over")
            return true
          }
          enqueue(job, timeout)
          const until = (condition: () => boolean): Effect.Effect<void> =>
            Effect.async<void>((resume) => {
              if (condition()) return resume(Effect.void)
              const listener = (): void => {
                if (!condition()) return
                listeners.delete(listener)
                resume(Effect.void)
              }
              listeners.add(listener)
              return Effect.sync(() => {
                listeners.delete(listener)
              })
            })
          // After an error the server says that it is ready, and then the session is.
          const check: Effect.Effect<void, ConnectionError> = Effect.suspend(() => {
            if (over !== undefined) {
              return Effect.fail(
                over.error ??
                  new ConnectionError({
                    ...at("copyIn"),
                    connection: options.name,
                    reason: "InvalidRequest",
                    description: "the statement reads nothing: it has to be COPY ... FROM STDIN"
                  })
              )
            }
            return job.failed || job.timedOut
              ? Effect.zipRight(
                  until(() => over !== undefined),
                  check
                )
              : Effect.void
          })
          const started = Effect.zipRight(
            until(() => wire !== undefined || over !== undefined || job.failed),
            check
          )
          const send = (chunk: Uint8Array): Effect.Effect<void, ConnectionError> =>
            Effect.suspend(() => {
              if (over !== undefined || job.failed || job.timedOut) return check
              wire?.sendCopyFromChunk(chunk)
              const socket = internals.connection.stream
              // A source without end that never waits would keep the server's answer from being read.
              if (socket.writableNeedDrain !== true)
                return ++sends % 64 === 0 ? Effect.zipRight(turn, check) : Effect.void
              let drained = false
              const drain = (): void => {
                drained = true
                tell()
              }
              socket.once("drain", drain)
              return Effect.zipRight(
                Effect.ensuring(
                  until(() => drained || over !== undefined || job.failed || job.timedOut),
                  Effect.sync(() => socket.off("drain", drain))
                ),
                check
              )
            })
          const end: Effect.Effect<number, ConnectionError> = Effect.suspend(() => {
            if (over !== undefined || job.failed || job.timedOut) return Effect.as(check, 0)
            finishing = true
            wire?.endCopyFrom()
            return Effect.flatMap(
              until(() => over !== undefined),
              () => {
                if (over?.error !== undefined) return Effect.fail(over.error)
                return Effect.succeed(job.query instanceof CopyQuery ? job.query.rows : 0)
              }
            )
          })
          const release = (): void => {
            if (over !== undefined || job !== active || wire === undefined || finishing || job.failed) {
              if (over === undefined && !job.failed) abandon(job)
              return
            }
            // The server undoes what it has and is ready again: there is nothing to be cancelled.
            job.abandoned = true
            if (job.timer !== undefined) clearTimeout(job.timer)
            job.timer = setTimeout(cut, cancelMillis * 2)
            wire.sendCopyFail("the sender gave up")
          }
          const broken: Effect.Effect<never, ConnectionError> = Effect.zipRight(
            until(() => over !== undefined || job.failed),
            Effect.zipRight(check, Effect.never)
          )
          return { started, copy: { send, end, failed: broken } satisfies CopyIn, release }
        }),
        ({ release }) => Effect.sync(release)
      ),
      ({ copy, started }) => Effect.as(started, copy)
    )

  const idle = Effect.async<void>((resume) => {
    if (active === undefined && queue.length === 0 && !cancelling) return resume(Effect.void)
    const listener = () => resume(Effect.void)
    idleListeners.push(listener)
    return Effect.sync(() => {
      idleListeners = idleListeners.filter((each) => each !== listener)
    })
  })

  const closed = Effect.async<void>((resume) => {
    if (socket.destroyed || !alive) return resume(Effect.void)
    client.end(() => resume(Effect.void))
  })

  return {
    submit,
    cancellable: true,
    stream,
    copyIn,
    copyOut,
    onNotification: (listener) => {
      client.on("notification", ({ channel, payload, processId }) =>
        listener({ channel, payload: payload ?? "", processId })
      )
    },
    pause: () => internals.connection.stream.pause(),
    resume: () => internals.connection.stream.resume(),
    isMarked: () => marked || !alive,
    mark: () => {
      marked = true
    },
    isAlive: () => alive,
    isSilent: () => silent,
    isUsable: () =>
      alive &&
      !marked &&
      active === undefined &&
      queue.length === 0 &&
      !cancelling &&
      internals.getTransactionStatus() === "I",
    onGone: (listener) => {
      goneListeners.push(listener)
    },
    end: Effect.suspend(() => {
      ending = true
      if (active !== undefined && !active.final) stop(active)
      internals.connection.stream.resume()
      return Effect.zipRight(idle, closed)
    }).pipe(
      Effect.timeoutOption(options.cancelTimeout),
      Effect.tap((ended) => {
        if (Option.isNone(ended)) silent = true
      }),
      // Inside, so that one who is interrupted already cuts the connection all the same.
      Effect.interruptible,
      Effect.ensuring(
        Effect.sync(() => {
          socket.destroy()
          lost(undefined)
        })
      ),
      Effect.asVoid
    )
  }
}

/** One turn of the event loop, in which sockets are read. */
const turn = Effect.async<void>((resume) => {
  const immediate = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(immediate))
})

const flush: Request = { sql: "", params: [], rows: "array" }

const nothing: Result = { rows: [], command: undefined, raw: undefined }
