/**
 * A server in this process that speaks the Redis protocol and answers as a test wants: for what a real server cannot be
 * made to say, such as MOVED in a circle, or a refused HELLO. It reads requests of RESP2 and RESP3; answers are raw.
 */
import * as Net from "node:net"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./internal/machine.ts"
import * as Resp from "./internal/resp.ts"

/** The server could not listen. */
export class FakeRedisError extends Data.TaggedError("FakeRedisError")<{
  readonly description: string
}> {
  override get message(): string {
    return this.description
  }
}

/** A command as a client sent it. */
export interface Request {
  /** In capitals. */
  readonly name: string
  readonly args: ReadonlyArray<string>
  readonly bytes: ReadonlyArray<Buffer>
}

/** One client's connection. */
export interface Connection {
  /** 1 for the first that was made, and so on. */
  readonly id: number
  /** What the handler keeps of it. */
  readonly state: Map<string, unknown>
  /** 2, until the client asked for 3 by HELLO and was not refused by the handler. */
  readonly protocol: 2 | 3
  /** Sends bytes at any time: a push, a late answer, part of one. */
  readonly push: (raw: string | Uint8Array) => void
  /** Closes it when all is sent. */
  readonly end: () => void
  /** Resets it (RST). */
  readonly reset: () => void
}

/** The raw answer; `""` for none; `undefined` for the usual one (`usual`). */
export type Handler = (request: Request, connection: Connection) => string | Uint8Array | undefined

/** A running server. */
export interface FakeRedis {
  readonly host: string
  readonly port: number
  readonly url: string
  /** All commands so far in the order in which they came, names in capitals first. */
  readonly received: Effect.Effect<ReadonlyArray<ReadonlyArray<string>>>
  /** How many connections were made so far, and how many are open. */
  readonly connections: Effect.Effect<{ readonly made: number; readonly open: number }>
  /** Sends bytes on all open connections. */
  readonly push: (raw: string | Uint8Array) => Effect.Effect<void>
  /** Resets all open connections. Gives how many there were. */
  readonly resetAll: Effect.Effect<number>
}

/** Starts a server for the life of the scope. */
export const make = (handler: Handler = () => undefined): Effect.Effect<FakeRedis, FakeRedisError, Scope.Scope> =>
  Effect.gen(function* () {
    const received: Array<ReadonlyArray<string>> = []
    const open = new Map<Net.Socket, Connection>()
    let made = 0

    const server = Net.createServer((socket) => {
      made++
      let protocol: 2 | 3 = 2
      const connection: Connection = {
        id: made,
        state: new Map(),
        get protocol() {
          return protocol
        },
        push: (raw) => {
          if (!socket.destroyed && !socket.writableEnded) socket.write(raw)
        },
        end: () => {
          socket.end()
        },
        reset: () => {
          socket.resetAndDestroy()
        }
      }
      open.set(socket, connection)
      socket.setNoDelay(true)
      socket.on("error", () => {})
      socket.on("close", () => open.delete(socket))
      const reader = new Resp.Reader(Resp.readRequest)
      const answer = (bytes: ReadonlyArray<Buffer>): void => {
        const [first = "", ...args] = bytes.map((part) => part.toString("utf8"))
        const name = first.toUpperCase()
        received.push([name, ...args])
        const said = handler({ name, args, bytes }, connection)
        if (said === undefined && name === "HELLO" && args[0] !== undefined) protocol = args[0] === "3" ? 3 : 2
        connection.push(said ?? usual({ name, args, bytes }, connection))
        if (said === undefined && name === "QUIT") connection.end()
      }
      socket.on("data", (chunk: Buffer) => {
        try {
          for (const { value } of reader.take(chunk)) if (value.length > 0 && !socket.destroyed) answer(value)
        } catch (cause) {
          connection.push(error(`ERR ${cause instanceof Error ? cause.message : String(cause)}`))
          connection.end()
        }
      })
    })

    const resetAll = Effect.sync(() => {
      const all = [...open.values()]
      for (const connection of all) connection.reset()
      return all.length
    })
    const port = yield* Machine.freePort
    yield* Effect.acquireRelease(
      Effect.async<void, FakeRedisError>((resume) => {
        server.once("error", (cause) => resume(Effect.fail(new FakeRedisError({ description: cause.message }))))
        server.listen(port, Machine.host, () => resume(Effect.void))
      }),
      () =>
        Effect.zipRight(
          Effect.sync(() => server.close()),
          resetAll
        )
    )
    return {
      host: Machine.host,
      port,
      url: `redis://${Machine.host}:${port}`,
      received: Effect.sync(() => [...received]),
      connections: Effect.sync(() => ({ made, open: open.size })),
      push: (raw) =>
        Effect.sync(() => {
          for (const connection of open.values()) connection.push(raw)
        }),
      resetAll
    }
  })

/** What a server that holds nothing answers to what clients say as they connect; an error to all else. */
export const usual = (request: Request, connection: Connection): string => {
  switch (request.name) {
    case "HELLO":
      return hello(connection)
    case "AUTH":
    case "SELECT":
    case "READONLY":
    case "READWRITE":
    case "ASKING":
    case "QUIT":
      return ok
    case "CLIENT":
      return request.args[0]?.toUpperCase() === "ID" ? integer(connection.id) : ok
    case "PING":
      return request.args[0] === undefined ? simple("PONG") : bulk(request.args[0])
    case "ECHO":
      return bulk(request.args[0] ?? "")
    case "INFO":
      return bulk(
        "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Persistence\r\nloading:0\r\n# Replication\r\nrole:master\r\n"
      )
    case "COMMAND":
      return array([])
    default:
      return error(`ERR unknown command '${request.name}'`)
  }
}

const hello = (connection: Connection): string => {
  const fields: ReadonlyArray<readonly [string, string]> = [
    ["server", bulk("redis")],
    ["version", bulk("7.0.15")],
    ["proto", integer(connection.protocol)],
    ["id", integer(connection.id)],
    ["mode", bulk("standalone")],
    ["role", bulk("master")],
    ["modules", array([])]
  ]
  return connection.protocol === 3
    ? map(fields.map(([name, value]) => [bulk(name), value] as const))
    : array(fields.flatMap(([name, value]) => [bulk(name), value]))
}

/** `+OK` */
export const ok = "+OK\r\n"

/** A simple string. */
export const simple = (text: string): string => `+${text}\r\n`

/** An error: its code first, as in `MOVED 3999 127.0.0.1:6381`. */
export const error = (text: string): string => `-${text}\r\n`

/** An integer. */
export const integer = (value: number): string => `:${value}\r\n`

/** A bulk string. */
export const bulk = (text: string): string => `$${Buffer.byteLength(text)}\r\n${text}\r\n`

/** Nothing, in RESP2. */
export const nil = "$-1\r\n"

/** An array of raw answers. */
export const array = (items: ReadonlyArray<string>): string => `*${items.length}\r\n${items.join("")}`

/** A map of raw answers (RESP3). */
export const map = (entries: ReadonlyArray<readonly [string, string]>): string =>
  `%${entries.length}\r\n${entries.flat().join("")}`

/** A push of raw answers (RESP3): it answers no command. */
export const push = (items: ReadonlyArray<string>): string => `>${items.length}\r\n${items.join("")}`

/** The answer to CLUSTER SLOTS. */
export const clusterSlots = (
  ranges: ReadonlyArray<{
    readonly from: number
    readonly to: number
    readonly nodes: ReadonlyArray<{ readonly host: string; readonly port: number; readonly id?: string | undefined }>
  }>
): string =>
  array(
    ranges.map(({ from, nodes, to }) =>
      array([
        integer(from),
        integer(to),
        ...nodes.map((node) =>
          array([bulk(node.host), integer(node.port), bulk(node.id ?? `${node.host}:${node.port}`)])
        )
      ])
    )
  )
