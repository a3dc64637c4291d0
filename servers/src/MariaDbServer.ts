/** A real MariaDB on a free loopback port, in a temporary folder; it is gone when the scope closes. */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./internal/machine.ts"
import * as Need from "./Need.ts"

/** The server could not be made or started. */
export class MariaDbServerError extends Data.TaggedError("MariaDbServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** A running server, with an account without a password that may do everything, from loopback only. */
export interface MariaDbServer {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly database: string
  readonly url: string
}

/** Starts a server for the life of the scope. */
export const make: Effect.Effect<MariaDbServer, MariaDbServerError, Scope.Scope> = Effect.gen(function* () {
  const server = Need.program("mariadbd")
  const install = Need.program("mariadb-install-db")
  if (server === undefined || install === undefined) {
    return yield* new MariaDbServerError({ description: "MariaDB is not installed: apt-get install mariadb-server" })
  }
  const folder = yield* Machine.folder("underlay-mariadb-")
  const data = Path.join(folder, "data")
  // As root it has to be told that it may be.
  const account = process.getuid?.() === 0 ? ["--user=root"] : []
  yield* run(install, [
    ...["--no-defaults", `--datadir=${data}`, "--auth-root-authentication-method=normal", "--skip-test-db"],
    ...account
  ])
  const options = Path.join(folder, "init.sql")
  yield* Effect.sync(() =>
    Fs.writeFileSync(
      options,
      [
        "create database underlay;",
        "create user 'underlay'@'127.0.0.1';",
        "grant all on *.* to 'underlay'@'127.0.0.1' with grant option;"
      ].join("\n")
    )
  )
  const port = yield* Machine.freePort
  const daemon = yield* Machine.daemon(server, () => [
    ...["--no-defaults", `--datadir=${data}`, `--port=${port}`, `--bind-address=${Machine.host}`],
    ...[`--socket=${Path.join(folder, "s")}`, `--init-file=${options}`, "--skip-name-resolve", ...account]
  ])
  yield* daemon.launch
  yield* Machine.until(
    Effect.flatMap(greets(port), (ready) =>
      ready
        ? Effect.succeed<true | undefined>(true)
        : daemon.pid() === undefined
          ? new MariaDbServerError({ description: "MariaDB did not start", log: daemon.log().slice(-2_000) })
          : Effect.succeed(undefined)
    ),
    20_000,
    () => new MariaDbServerError({ description: "MariaDB was not ready within 20 s", log: daemon.log().slice(-2_000) })
  )
  const username = "underlay"
  const database = "underlay"
  return {
    host: Machine.host,
    port,
    username,
    database,
    url: `mysql://${username}@${Machine.host}:${port}/${database}`
  }
})

/** Whether the server sends its greeting: it does when its init file was run. */
const greets = (port: number): Effect.Effect<boolean> =>
  Effect.async((resume) => {
    const socket = Net.connect(port, Machine.host)
    const end = (ready: boolean) => {
      socket.destroy()
      resume(Effect.succeed(ready))
    }
    socket.setTimeout(1_000, () => end(false))
    socket.once("error", () => end(false))
    socket.once("close", () => end(false))
    // Four bytes of a header, then the version of the protocol.
    socket.once("data", (bytes) => end(bytes[4] === 10))
  })

const run = (file: string, argv: ReadonlyArray<string>): Effect.Effect<void, MariaDbServerError> =>
  Effect.async((resume) => {
    const child = ChildProcess.execFile(file, argv, (error, stdout, stderr) =>
      resume(
        error === null
          ? Effect.void
          : new MariaDbServerError({
              description: `${Path.basename(file)} failed`,
              log: `${stdout}${stderr}`.slice(-2_000)
            })
      )
    )
    return Effect.sync(() => {
      child.kill("SIGKILL")
    })
  })
