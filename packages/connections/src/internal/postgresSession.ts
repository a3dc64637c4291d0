/**
 * One connection of `pg` as a session: interruption cancels the statement on the server by this connection's own key,
 * so it can never hit another's, and the connection is not lent again.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type * as Pg from "pg"
import type { Params, Result, Session } from "./sqlClient.ts"
import { toConnectionError } from "./sqlState.ts"

export interface Options {
  readonly kind: string
  readonly name: string
  readonly driver: Pick<typeof Pg, "Client" | "Query">
  readonly config: Pg.ClientConfig
  readonly connectTimeout: Duration.Duration
  /** How long a cancelled statement may take to end before its connection is cut. */
  readonly cancelTimeout: Duration.Duration
  /** The server's own limit; the client gives up a second later, should the network be gone. */
  readonly statementTimeout: Duration.Duration | undefined
  /** Runs what has to be done after its caller is gone. */
  readonly background: (effect: Effect.Effect<void>) => void
}

export interface PostgresSession extends Session {
  readonly isUsable: () => boolean
  readonly onGone: (listener: () => void) => void
  readonly end: Effect.Effect<void>
}

// What `pg` has and its types leave out.
interface Internals {
  readonly processID: number | null
  readonly secretKey: number | null
  readonly readyForQuery?: boolean
  readonly host: string
  readonly port: number
  readonly ssl: boolean | Tls.ConnectionOptions
  readonly connection: { readonly stream: Net.Socket }
  readonly getTransactionStatus: () => "I" | "T" | "E" | null
}

type Target = Pick<Internals, "processID" | "secretKey" | "host" | "port" | "ssl">

const message = (...words: ReadonlyArray<number>): Buffer => {
  const buffer = Buffer.alloc(4 * (words.length + 1))
  buffer.writeInt32BE(buffer.length, 0)
  words.forEach((word, index) => {
    buffer.writeInt32BE(word, 4 * (index + 1))
  })
  return buffer
}

/**
 * Asks the server, over a connection of its own, to cancel what the target runs; done when the server has passed it on.
 * It never fails: when the server cannot be reached the connection is cut anyway.
 */
const cancel = (target: Target): Effect.Effect<void> =>
  Effect.async<void>((resume) => {
    const { host, port, processID, secretKey, ssl } = target
    if (processID === null || secretKey === null) return resume(Effect.void)
    const request = message(80877102, processID, secretKey)
    const socket = host.startsWith("/") ? Net.connect(`${host}/.s.PGSQL.${port}`) : Net.connect(port, host)
    const done = (): void => {
      socket.destroy()
      resume(Effect.void)
    }
    socket.on("error", done)
    socket.on("close", done)
    socket.once("connect", () => {
      if (ssl === false) {
        socket.resume()
        socket.write(request)
        return
      }
      socket.write(message(80877103))
      socket.once("data", (answer) => {
        if (answer.toString("latin1", 0, 1) !== "S") return done()
        const secure = Tls.connect({
          socket,
          host,
          ...(Net.isIP(host) === 0 ? { servername: host } : {}),
          ...(ssl === true ? {} : ssl)
        })
        secure.on("error", done)
        secure.resume()
        secure.once("secureConnect", () => secure.write(request))
      })
    })
    return Effect.sync(() => {
      socket.destroy()
    })
  })

/**
 * Connects. The session is handed to `made` at the moment it exists, so that it has an owner even if the fiber that
 * waits for it is interrupted in that moment.
 */
export const connect = (
  options: Options,
  made: (session: PostgresSession) => void
): Effect.Effect<void, ConnectionError> => {
  const at = (method: string) => ({ kind: options.kind, name: options.name, method })

  // The driver reads the URL here, and the files that it names.
  const prepared = Effect.try({
    try: () => {
      const socket = new Net.Socket()
      return { socket, client: new options.driver.Client({ ...options.config, stream: () => socket }) }
    },
    catch: (cause) =>
      new ConnectionError({
        ...at("connect"),
        connection: options.name,
        reason: "InvalidSettings",
        description: "the URL, or a file that it names, cannot be used: see the cause",
        cause
      })
  })

  const open = (client: Pg.Client, socket: Net.Socket) =>
    Effect.async<void, ConnectionError>((resume) => {
      let unwanted = false
      // Without a listener a lost connection would end the process.
      client.on("error", () => {})
      client.connect((error: Error | null) => {
        // What was read before the socket was destroyed can still make it "connected".
        if (unwanted) return
        if (error === null || error === undefined) {
          made(session(client, socket))
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

  const session = (client: Pg.Client, socket: Net.Socket): PostgresSession => {
    const internals = client as unknown as Internals
    let alive = true
    let marked = false
    let cancelling: Deferred.Deferred<void> | undefined
    let active = 0
    let onIdle: Array<() => void> = []
    const goneListeners: Array<() => void> = []

    const settled = (): void => {
      active--
      if (active > 0) return
      const listeners = onIdle
      onIdle = []
      for (const listener of listeners) listener()
    }

    client.on("error", () => {
      alive = false
    })
    client.on("end", () => {
      alive = false
      for (const listener of goneListeners) listener()
    })

    const finished: Effect.Effect<void> = Effect.async<void>((resume) => {
      if (active === 0) return resume(Effect.void)
      const listener = () => resume(Effect.void)
      onIdle.push(listener)
      return Effect.sync(() => {
        onIdle = onIdle.filter((each) => each !== listener)
      })
    })

    /** Done when no statement is on its way and no request to cancel one either. */
    const idle: Effect.Effect<void> = Effect.suspend(() =>
      Effect.zipRight(cancelling === undefined ? Effect.void : Deferred.await(cancelling), finished)
    )

    const interrupt: Effect.Effect<void> = Effect.suspend(() => {
      marked = true
      // A later statement may be interrupted while the first request is still on its way: one is enough, since what
      // follows waits for it.
      if (cancelling !== undefined || active === 0 || !alive) return Effect.void
      return Effect.map(Deferred.make<void>(), (done) => {
        cancelling = done
        options.background(
          cancel(internals).pipe(
            Effect.timeoutOption(options.cancelTimeout),
            Effect.ensuring(
              Effect.suspend(() => {
                cancelling = undefined
                return Deferred.succeed(done, undefined)
              })
            ),
            Effect.asVoid
          )
        )
      })
    })

    const unusable = (method: string) =>
      new ConnectionError({
        ...at(method),
        connection: options.name,
        reason: "Unavailable",
        description: "the connection is gone"
      })

    /** The error of a statement comes before the server is ready again. Nobody shall use the connection in between. */
    const whenReady = (then: () => void): void => {
      if (internals.readyForQuery !== false || !alive) {
        then()
        return
      }
      let once = false
      const ready = (): void => {
        if (once) return
        once = true
        client.off("drain", ready)
        client.off("end", ready)
        then()
      }
      client.on("drain", ready)
      client.on("end", ready)
    }

    const submit = (sql: string, params: Params, rows: "object" | "array") =>
      Effect.async<Result, ConnectionError>((resume) => {
        if (!alive) return resume(unusable("execute"))
        active++
        const config = {
          text: sql,
          values: params as Array<string | null>,
          ...(rows === "array" ? { rowMode: "array" as const } : {})
        }
        const callback = (error: Error | null | undefined, result: unknown): void => {
          if (error !== null && error !== undefined) {
            whenReady(() => {
              settled()
              resume(toConnectionError(at("execute"), error))
            })
            return
          }
          settled()
          // Several statements at once, which only text without parameters can be, give several results.
          const last = Array.isArray(result) ? result[result.length - 1] : result
          const { command, rows } = last as { readonly command?: string; readonly rows: ReadonlyArray<unknown> }
          resume(Effect.succeed({ rows, command, raw: result }))
        }
        ;(client.query as (config: object, callback: (error: Error | null, result: unknown) => void) => void).call(
          client,
          config,
          callback
        )
        return interrupt
      })

    const run = (sql: string, params: Params, rows: "object" | "array"): Effect.Effect<Result, ConnectionError> => {
      const now =
        marked && alive
          ? Effect.timeoutOption(idle, Duration.times(options.cancelTimeout, 2)).pipe(
              Effect.flatMap((done) => (Option.isSome(done) ? submit(sql, params, rows) : unusable("execute")))
            )
          : submit(sql, params, rows)
      const { statementTimeout } = options
      return statementTimeout === undefined
        ? now
        : Effect.timeoutFail(now, {
            duration: Duration.sum(statementTimeout, Duration.seconds(1)),
            onTimeout: () =>
              new ConnectionError({
                ...at("execute"),
                connection: options.name,
                reason: "Timeout",
                description: `no answer within ${Duration.format(statementTimeout)} and a second: is the network gone?`
              })
          })
    }

    /** Rows as they come. While the consumer is behind, nothing is read from the socket. */
    const stream = (sql: string, params: Params): Stream.Stream<unknown, ConnectionError> =>
      Stream.unwrapScoped(
        Effect.gen(function* () {
          if (!alive) return yield* unusable("stream")
          const high = 1024
          let buffer: Array<unknown> = []
          let ended: { readonly error: ConnectionError | undefined } | undefined
          let wake: (() => void) | undefined
          const wire = internals.connection.stream
          yield* Effect.acquireRelease(
            Effect.sync(() => {
              active++
              const query = new options.driver.Query({ text: sql, values: params as Array<string | null> })
              query.on("row", (row: unknown) => {
                buffer.push(row)
                if (buffer.length >= high) wire.pause()
                wake?.()
              })
              const finish = (error: Error | undefined): void => {
                const end = (): void => {
                  if (ended !== undefined) return
                  settled()
                  ended = { error: error === undefined ? undefined : toConnectionError(at("stream"), error) }
                  wake?.()
                }
                if (error === undefined) end()
                else whenReady(end)
              }
              query.on("end", () => finish(undefined))
              query.on("error", (error: Error) => finish(error))
              client.query(query)
            }),
            () =>
              Effect.suspend(() => {
                // What is still to come has to be read before the server can say that it stopped.
                const over = ended !== undefined
                buffer = []
                wake = () => {
                  buffer = []
                }
                wire.resume()
                return over ? Effect.void : interrupt
              })
          )
          const pull: Effect.Effect<Chunk.Chunk<unknown>, Option.Option<ConnectionError>> = Effect.suspend(() => {
            if (buffer.length > 0) {
              const rows = Chunk.unsafeFromArray(buffer)
              buffer = []
              wire.resume()
              return Effect.succeed(rows)
            }
            if (ended !== undefined) {
              return Effect.fail(ended.error === undefined ? Option.none() : Option.some(ended.error))
            }
            return Effect.zipRight(
              Effect.async<void>((resume) => {
                wake = () => {
                  wake = undefined
                  resume(Effect.void)
                }
                return Effect.sync(() => {
                  wake = undefined
                })
              }),
              pull
            )
          })
          return Stream.repeatEffectChunkOption(pull)
        })
      )

    const closed = Effect.async<void>((resume) => {
      if (socket.destroyed || !alive) return resume(Effect.void)
      client.end(() => resume(Effect.void))
    })

    return {
      run,
      stream,
      isMarked: () => marked || !alive,
      mark: () => {
        marked = true
      },
      isUsable: () => alive && !marked && active === 0 && internals.getTransactionStatus() === "I",
      onGone: (listener) => {
        goneListeners.push(listener)
      },
      end: Effect.suspend(() => (active > 0 ? interrupt : Effect.void)).pipe(
        Effect.zipRight(idle),
        Effect.zipRight(closed),
        Effect.timeoutOption(options.cancelTimeout),
        Effect.ensuring(
          Effect.sync(() => {
            alive = false
            socket.destroy()
          })
        ),
        Effect.asVoid,
        Effect.interruptible
      )
    }
  }

  const opened = Effect.flatMap(prepared, ({ client, socket }) => open(client, socket))
  return Effect.timeoutFail(opened, {
    duration: options.connectTimeout,
    onTimeout: () =>
      new ConnectionError({
        ...at("connect"),
        connection: options.name,
        reason: "Timeout",
        description: `no connection within ${Duration.format(options.connectTimeout)}: does something else answer there?`
      })
  })
}
