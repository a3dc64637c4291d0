/**
 * PGlite behind a port, for programs that want a socket. It has one backend: what its connections do is done one after
 * the other, and one that is in a transaction keeps all others waiting.
 */
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Install from "./Install.ts"
import * as Machine from "./internal/machine.ts"

/** The server could not be started. */
export class PGliteServerError extends Data.TaggedError("PGliteServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** A running server. */
export interface PGliteServer {
  readonly host: string
  readonly port: number
  readonly url: string
}

const name = "@electric-sql/pglite-socket"
const version = "0.2.17"
const options = { folder: "pglite-socket", with: ["@electric-sql/pglite@0.5.14"] } as const

/** Whether it is installed. */
export const isInstalled = (): boolean => Install.isInstalled(name, version, options)

/** Installs it: 28 MB. */
export const install: Effect.Effect<void, Install.InstallError> = Effect.asVoid(Install.npm(name, version, options))

/** Starts a server in memory for the life of the scope. */
export const make: Effect.Effect<PGliteServer, PGliteServerError, Scope.Scope> = Effect.gen(function* () {
  if (!isInstalled()) {
    return yield* new PGliteServerError({ description: "it is not installed: pnpm servers install fast" })
  }
  const port = yield* Machine.freePort
  const script = Install.path(options.folder, "node_modules", ...name.split("/"), "dist/scripts/server.js")
  const daemon = yield* Machine.daemon(process.execPath, () => [
    script,
    ...["--db=memory://", `--host=${Machine.host}`, `--port=${port}`, "--max-connections=10"]
  ])
  yield* daemon.launch
  yield* Machine.until(
    Effect.suspend(() => {
      const log = daemon.log()
      if (/listening|ready/i.test(log)) return Effect.succeed<true | undefined>(true)
      return daemon.pid() === undefined
        ? new PGliteServerError({ description: `${Path.basename(script)} ended`, log: log.slice(-2_000) })
        : Effect.succeed(undefined)
    }),
    30_000,
    () => new PGliteServerError({ description: "PGlite was not ready within 30 s", log: daemon.log().slice(-2_000) })
  )
  return {
    host: Machine.host,
    port,
    url: `postgres://postgres@${Machine.host}:${port}/postgres?sslmode=disable`
  }
})
