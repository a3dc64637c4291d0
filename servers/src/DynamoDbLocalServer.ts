/**
 * DynamoDB Local, AWS's own program (Java), in memory. Its licence lets it be used for tests and not be given on, so it is
 * a download into `.cache/servers`: the one package of npm that has it, without the packages that this asks for.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Install from "./Install.ts"
import * as Dynamo from "./internal/dynamo.ts"
import * as Machine from "./internal/machine.ts"
import * as Need from "./Need.ts"

export type { DynamoServer as DynamoDbLocalServer } from "./internal/dynamo.ts"
export { DynamoServerError as DynamoDbLocalServerError } from "./internal/dynamo.ts"

const name = "amplify-dynamodb-simulator"
const version = "2.9.30"

/** Where the program is, or would be. */
const folder = (): string => Install.path("dynamodb-local", version)

const jar = (): string => Path.join(folder(), "emulator", "DynamoDBLocal.jar")

/** Whether it can be started: it is there, and Java is. */
export const isInstalled = (): boolean => Need.program("java") !== undefined && Fs.existsSync(jar())

/** Downloads it, unless it is there. Two processes that do so at once do it twice; what is there is always whole. */
export const install: Effect.Effect<void, Install.InstallError> = Effect.suspend(() => {
  if (Fs.existsSync(jar())) return Effect.void
  const parent = Path.dirname(folder())
  Fs.mkdirSync(parent, { recursive: true })
  const mine = Fs.mkdtempSync(Path.join(parent, "new-"))
  const run = (program: string, ...argv: ReadonlyArray<string>): Effect.Effect<void, Install.InstallError> =>
    Effect.async((resume) => {
      const child = ChildProcess.execFile(program, argv, { cwd: mine, timeout: 300_000 }, (error, _, log) =>
        resume(
          error === null
            ? Effect.void
            : new Install.InstallError({ description: `${program} could not bring ${name}@${version}`, log })
        )
      )
      return Effect.sync(() => {
        child.kill("SIGKILL")
      })
    })
  return run("npm", "pack", `${name}@${version}`, "--silent").pipe(
    Effect.zipRight(run("tar", "xzf", `${name}-${version}.tgz`)),
    Effect.zipRight(
      Effect.sync(() => {
        // by a rename: where it is, everything is
        if (!Fs.existsSync(folder())) Fs.renameSync(Path.join(mine, "package"), folder())
      })
    ),
    Effect.ensuring(Effect.sync(() => Fs.rmSync(mine, { recursive: true, force: true })))
  )
})

/** Starts a server for the life of the scope. It must be installed. */
export const make = (): Effect.Effect<Dynamo.DynamoServer, Dynamo.DynamoServerError, Scope.Scope> =>
  Effect.suspend(() => {
    const java = Need.program("java")
    if (java === undefined) {
      return new Dynamo.DynamoServerError({
        description: "DynamoDB Local needs Java 17: apt-get install default-jre-headless"
      })
    }
    if (!Fs.existsSync(jar())) {
      return new Dynamo.DynamoServerError({
        description: "DynamoDB Local is not installed: pnpm servers install dynamodb-local"
      })
    }
    // it writes a file where it is started
    return Effect.flatMap(Machine.folder("underlay-dynamodb-"), (place) =>
      Dynamo.run(
        "DynamoDB Local",
        "/usr/bin/env",
        (port) => [
          ...["--chdir", place, java],
          ...["-Xmx256m", `-Djava.library.path=${Path.join(folder(), "emulator", "DynamoDBLocal_lib")}`, "-jar", jar()],
          ...["-port", String(port), "-inMemory", "-sharedDb", "-disableTelemetry"]
        ],
        60_000
      )
    )
  })
