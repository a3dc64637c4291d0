/**
 * A real memcached on a free loopback port: plain or with TLS. It can be killed, started again on its port, frozen and
 * thawed, and it is stopped by its process id when the scope closes.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Certificates from "./internal/certificates.ts"
import * as Machine from "./internal/machine.ts"
import * as Need from "./Need.ts"

/** The server could not be started, or did not answer in time. */
export class MemcachedServerError extends Data.TaggedError("MemcachedServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** Options of a server. */
export interface MemcachedServerOptions {
  /** Memory for items, in megabytes: 64. */
  readonly megabytes?: number | undefined
  /** Only TLS is spoken, with certificates made for this server. */
  readonly tls?: boolean | undefined
  /** Further arguments of memcached, such as `["-I", "2m"]`. */
  readonly arguments?: ReadonlyArray<string> | undefined
}

/** A running (or killed, or frozen) server. */
export interface MemcachedServer {
  readonly host: string
  readonly port: number
  /** `host:port`, as clients are told of it. */
  readonly address: string
  readonly certificates: Certificates.Certificates | undefined
  /** Kills it as a crash would: SIGKILL. Everything it held is lost. Returns when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Starts it again on the same port, empty. */
  readonly start: Effect.Effect<void, MemcachedServerError>
  /** SIGSTOP: the kernel still accepts connections, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
  /** Sends text on a connection of its own and gives what comes back until `end` (`"END\r\n"`) is in it. */
  readonly command: (text: string, end: string) => Effect.Effect<string, MemcachedServerError>
  /** Connections that clients have open, by the server's own count. */
  readonly connections: Effect.Effect<number, MemcachedServerError>
}

const host = Machine.host

/** Starts a server for the life of the scope. */
export const make = (
  options: MemcachedServerOptions = {}
): Effect.Effect<MemcachedServer, MemcachedServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const binary = Need.program("memcached")
    if (binary === undefined) {
      return yield* new MemcachedServerError({ description: "memcached is not installed: apt-get install memcached" })
    }
    const failed = (description: string) => new MemcachedServerError({ description, log: daemon.log().slice(-2_000) })
    const certificates =
      options.tls === true
        ? yield* Effect.flatMap(Machine.folder("underlay-memcached-"), Certificates.make).pipe(
            Effect.mapError((log) => new MemcachedServerError({ description: "no certificates could be made", log }))
          )
        : undefined
    let port = yield* Machine.freePort
    const daemon = yield* Machine.daemon(binary, () => [
      ...["-l", host, "-p", String(port), "-U", "0", "-m", String(options.megabytes ?? 64)],
      // it refuses to run as root
      ...(process.getuid?.() === 0 ? ["-u", certificates === undefined ? "nobody" : "root"] : []),
      ...(certificates === undefined
        ? []
        : ["-Z", "-o", `ssl_chain_cert=${certificates.serverCertFile},ssl_key=${certificates.serverKeyFile}`]),
      ...(options.arguments ?? [])
    ])

    const command = (text: string, end: string): Effect.Effect<string, MemcachedServerError> =>
      Effect.async((resume) => {
        const socket =
          certificates === undefined
            ? Net.connect({ host, port })
            : Tls.connect({ host, port, ca: certificates.ca, servername: "localhost" })
        let answer = ""
        const settle = (result: Effect.Effect<string, MemcachedServerError>) => {
          clearTimeout(timer)
          socket.destroy()
          resume(result)
        }
        const timer = setTimeout(() => settle(failed("memcached did not answer within 5 s")), 5_000)
        socket.setEncoding("latin1")
        socket.on("error", (error) => settle(failed(error.message)))
        socket.on("close", () => settle(failed("memcached closed the connection")))
        socket.on("data", (chunk) => {
          answer += String(chunk)
          if (answer.includes(end)) settle(Effect.succeed(answer))
        })
        socket.write(text, "latin1")
        return Effect.sync(() => {
          clearTimeout(timer)
          socket.destroy()
        })
      })

    const ready = Effect.suspend(() =>
      Effect.flatMap(Effect.either(command("stats\r\n", "END\r\n")), (answer) => {
        if (daemon.pid() === undefined) return Effect.fail(failed("memcached did not start"))
        // another server can have taken the port in the meantime: this must be ours
        const mine = answer._tag === "Right" && answer.right.includes(`STAT pid ${daemon.pid()}\r\n`)
        return Effect.succeed(mine ? true : undefined)
      })
    )
    const start = Effect.zipRight(
      daemon.launch,
      Effect.asVoid(Machine.until(ready, 20_000, () => failed("memcached was not ready within 20 s")))
    )
    // Between choosing a port and using it, somebody else may take it.
    const startFirst = (left: number): Effect.Effect<void, MemcachedServerError> =>
      Effect.catchIf(
        start,
        () => left > 0 && /in use|failed to listen/.test(daemon.log()),
        () =>
          Effect.flatMap(Machine.freePort, (another) => {
            port = another
            return startFirst(left - 1)
          })
      )

    yield* startFirst(5)
    return {
      host,
      port,
      address: `${host}:${port}`,
      certificates,
      kill: daemon.end("SIGKILL"),
      start,
      freeze: daemon.freeze,
      thaw: daemon.thaw,
      command,
      connections: Effect.map(
        command("stats\r\n", "END\r\n"),
        // one of them is this question's
        (answer) => Number(/STAT curr_connections (\d+)/.exec(answer)?.[1] ?? 0) - 1
      )
    }
  })
