/**
 * A real Chroma on a free loopback port, in a temporary folder: the server inside the bindings that Chroma publishes for
 * Node. It can be killed, started again on its port with its data, frozen and thawed, and it is stopped by its process
 * id when the scope closes.
 */
import * as Http from "node:http"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Install from "./Install.ts"
import * as Machine from "./internal/machine.ts"

/** The server could not be installed or started, or did not answer in time. */
export class ChromaServerError extends Data.TaggedError("ChromaServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** A running (or killed, or frozen) server. */
export interface ChromaServer {
  readonly host: string
  readonly port: number
  readonly url: string
  /** Its process id while it runs. */
  readonly pid: Effect.Effect<number | undefined>
  /** The end of what it printed since it was started. */
  readonly log: Effect.Effect<string>
  /** Kills it as a crash would: SIGKILL, no farewell. Returns when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Stops it as an administrator would (SIGTERM). Returns when the process is gone. */
  readonly stop: Effect.Effect<void>
  /** Starts it again on the same port, with the same data; returns when it answers. */
  readonly start: Effect.Effect<void, ChromaServerError>
  /** SIGSTOP: the kernel still accepts connections, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
}

const host = Machine.host

/** The package that holds the server. Later ones, up to 1.3.4, need a glibc that Debian 12 does not have. */
export const packageName = "chromadb-js-bindings-linux-x64-gnu"
/** Its version. */
export const version = "1.0.1"

const options = { folder: "chroma" }

/** Whether it is installed here: then it starts at once. */
export const isInstalled = (): boolean => Install.isInstalled(packageName, version, options)

/** Installs it (108 MB are fetched, once) unless it is there. */
export const install: Effect.Effect<string, ChromaServerError> = Effect.suspend(() =>
  process.platform === "linux" && process.arch === "x64"
    ? Effect.mapError(
        Install.npm(packageName, version, options),
        (error) =>
          new ChromaServerError({
            description: error.description,
            ...(error.log === undefined ? {} : { log: error.log })
          })
      )
    : new ChromaServerError({ description: `${packageName} is for Linux on x64, this is another machine` })
)

const program = "require(process.argv[1]).cli(process.argv.slice(2))"

/** Starts a server for the life of the scope. */
export const make: Effect.Effect<ChromaServer, ChromaServerError, Scope.Scope> = Effect.gen(function* () {
  yield* install
  const data = yield* Machine.folder("underlay-chroma-")
  let port = yield* Machine.freePort
  const daemon = yield* Machine.daemon(process.execPath, () => [
    ...["-e", program, "--", Install.path(options.folder, "node_modules", packageName)],
    ...["chroma", "run", "--path", data, "--host", host, "--port", String(port)]
  ])
  const failed = (description: string) => new ChromaServerError({ description, log: daemon.log().slice(-2_000) })

  const beats = Effect.async<boolean>((resume) => {
    const request = Http.get({ host, port, path: "/api/v2/heartbeat", agent: false, timeout: 1_000 }, (response) => {
      response.resume()
      response.once("close", () => resume(Effect.succeed(response.statusCode === 200)))
    })
    request.on("timeout", () => request.destroy())
    request.on("error", () => resume(Effect.succeed(false)))
    return Effect.sync(() => {
      request.destroy()
    })
  })
  const ready = Effect.flatMap(beats, (answers) => {
    if (daemon.pid() === undefined) return Effect.fail(failed("Chroma did not start"))
    return Effect.succeed(answers ? true : undefined)
  })
  const start = Effect.zipRight(
    daemon.launch,
    Effect.asVoid(Machine.until(ready, 30_000, () => failed("Chroma was not ready within 30 s")))
  )
  // Between choosing a port and using it, somebody else may take it.
  const startFirst = (left: number): Effect.Effect<void, ChromaServerError> =>
    Effect.catchIf(
      start,
      () => left > 0 && daemon.log().includes("Address already in use"),
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
    url: `http://${host}:${port}`,
    pid: Effect.sync(() => daemon.pid()),
    log: Effect.sync(() => daemon.log()),
    kill: daemon.end("SIGKILL"),
    stop: daemon.end("SIGTERM"),
    start,
    freeze: daemon.freeze,
    thaw: daemon.thaw
  }
})
