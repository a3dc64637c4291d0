/**
 * fauxqs: the protocols of S3, SQS and SNS by a program of npm, in memory. It checks neither signatures nor the expiry of
 * URLs, and takes no notice of the conditions of a put.
 */
import * as Net from "node:net"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./internal/machine.ts"

/** The server could not be started. */
export class FauxqsServerError extends Data.TaggedError("FauxqsServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** A running server. Any keys are good. */
export interface FauxqsServer {
  readonly host: string
  readonly port: number
  readonly endpoint: string
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

/** Starts a server for the life of the scope. */
export const make: Effect.Effect<FauxqsServer, FauxqsServerError, Scope.Scope> = Effect.gen(function* () {
  const { host } = Machine
  const port = yield* Machine.freePort
  // Where the program is, the packages of this workspace say: it is looked up from this folder.
  const program = `import { startFauxqs } from "fauxqs"; await startFauxqs({ port: ${port}, host: "${host}", logger: false })`
  const daemon = yield* Machine.daemon("/usr/bin/env", () => [
    ...["-C", import.meta.dirname, process.execPath, "--input-type=module", "-e", program]
  ])
  yield* daemon.launch
  yield* Machine.until(
    accepts(host, port),
    20_000,
    () => new FauxqsServerError({ description: "fauxqs was not ready within 20 s", log: daemon.log() })
  )
  return {
    host,
    port,
    endpoint: `http://${host}:${port}`,
    region: "us-east-1",
    accessKeyId: "test",
    secretAccessKey: "test"
  }
})

const accepts = (host: string, port: number): Effect.Effect<true | undefined> =>
  Effect.async((resume) => {
    const socket = Net.connect(port, host)
    socket.once("connect", () => {
      socket.destroy()
      resume(Effect.succeed(true))
    })
    socket.once("error", () => resume(Effect.succeed(undefined)))
    return Effect.sync(() => {
      socket.destroy()
    })
  })
