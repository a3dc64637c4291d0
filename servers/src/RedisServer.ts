/**
 * A real redis-server on a free loopback port, in a temporary folder, without persistence. It can be killed, started
 * again on its port, frozen and thawed, and it is stopped by its process id when the scope closes.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Need from "./Need.ts"

/** The server could not be started, or did not answer in time. */
export class RedisServerError extends Data.TaggedError("RedisServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** Options of a server. */
export interface RedisServerOptions {
  /** The password that clients must send. */
  readonly password?: string | undefined
  /** Further arguments of redis-server, such as `["--maxmemory", "2mb"]`. */
  readonly arguments?: ReadonlyArray<string> | undefined
}

/** A running (or killed, or frozen) server. */
export interface RedisServer {
  readonly host: string
  readonly port: number
  readonly url: string
  /** Kills it as a crash would: SIGKILL, no farewell. Returns when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Starts it again on the same port (after `kill`); returns when it answers. */
  readonly start: Effect.Effect<void, RedisServerError>
  /** SIGSTOP: the kernel still accepts connections, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
  /** Sends one command on a connection of its own and gives the raw reply (RESP). For test set-up. */
  readonly command: (...parts: ReadonlyArray<string>) => Effect.Effect<string, RedisServerError>
}

const host = "127.0.0.1"

/** Starts a server for the life of the scope. */
export const make = (options: RedisServerOptions = {}): Effect.Effect<RedisServer, RedisServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const binary = Need.program("redis-server")
    if (binary === undefined) {
      return yield* new RedisServerError({ description: "redis-server is not installed: apt-get install redis-server" })
    }
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-redis-"))),
      (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
    )
    const port = yield* freePort
    let child: ChildProcess.ChildProcess | undefined
    let output = ""

    const kill = Effect.async<void>((resume) => {
      const running = child
      child = undefined
      if (running === undefined || running.exitCode !== null || running.signalCode !== null) {
        resume(Effect.void)
        return
      }
      running.once("exit", () => resume(Effect.void))
      running.kill("SIGKILL")
    })

    const exchange = (parts: ReadonlyArray<string>): Effect.Effect<string, RedisServerError> =>
      Effect.async((resume) => {
        const socket = Net.connect({ host, port })
        const authentication = options.password === undefined ? "" : encode(["AUTH", options.password])
        let text = ""
        socket.setEncoding("utf8")
        const fail = (description: string) => {
          socket.destroy()
          resume(Effect.fail(new RedisServerError({ description, log: output.slice(-2_000) })))
        }
        socket.setTimeout(2_000, () => fail("the server did not answer within 2 s"))
        socket.on("error", (error) => fail(error.message))
        socket.on("connect", () => socket.write(authentication + encode(parts) + encode(["QUIT"])))
        socket.on("data", (chunk) => {
          text += String(chunk)
        })
        socket.on("end", () => {
          socket.destroy()
          const reply = authentication === "" ? text : text.slice(text.indexOf("\r\n") + 2)
          // the last line is the answer to QUIT
          resume(Effect.succeed(reply.replace(/\+OK\r\n$/, "")))
        })
        return Effect.sync(() => socket.destroy())
      })

    const untilReady = (left: number): Effect.Effect<void, RedisServerError> =>
      Effect.flatMap(Effect.either(exchange(["INFO", "server"])), (answer) => {
        // another server can have taken the port in the meantime: this must be ours
        const mine = `\r\nprocess_id:${child?.pid}\r\n`
        if (answer._tag === "Right" && answer.right.includes(mine)) return Effect.void
        if (left <= 0 || child === undefined || child.exitCode !== null) {
          return new RedisServerError({ description: "redis-server did not start", log: output.slice(-2_000) })
        }
        return Effect.zipRight(pause(20), untilReady(left - 1))
      })

    const start = Effect.suspend(() => {
      output = ""
      const argv = ["--port", String(port), "--bind", host, "--dir", folder, "--save", "", "--appendonly", "no"]
      const password = options.password === undefined ? [] : ["--requirepass", options.password]
      const spawned = ChildProcess.spawn(
        binary,
        [...argv, "--enable-debug-command", "yes", ...password, ...(options.arguments ?? [])],
        { stdio: ["ignore", "pipe", "pipe"] }
      )
      const collect = (chunk: Buffer) => {
        output = (output + chunk.toString("utf8")).slice(-20_000)
      }
      spawned.stdout.on("data", collect)
      spawned.stderr.on("data", collect)
      spawned.on("error", (error) => {
        output += error.message
      })
      child = spawned
      children.add(spawned)
      spawned.once("exit", () => children.delete(spawned))
      return untilReady(250)
    })

    const signal = (name: NodeJS.Signals) =>
      Effect.sync(() => {
        child?.kill(name)
      })

    yield* Effect.addFinalizer(() => kill)
    yield* start
    const secret = options.password === undefined ? "" : `:${encodeURIComponent(options.password)}@`
    return {
      host,
      port,
      url: `redis://${secret}${host}:${port}`,
      kill,
      start,
      freeze: signal("SIGSTOP"),
      thaw: signal("SIGCONT"),
      command: (...parts) => exchange(parts)
    }
  })

/** A loopback port on which nothing listens. */
export const freePort: Effect.Effect<number> = Effect.async((resume) => {
  const server = Net.createServer()
  server.listen(0, host, () => {
    const address = server.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** Servers that this process started and that run still: none survives it, even when no scope closes. */
const children = new Set<ChildProcess.ChildProcess>()
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL")
})

/** A pause of the machine's own clock: a test's clock does not make a server start faster. */
const pause = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

const encode = (parts: ReadonlyArray<string>): string =>
  `*${parts.length}\r\n${parts.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join("")}`
