/** What the servers that speak DynamoDB's protocol share: a program that listens, and a request of a test's own to it. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./machine.ts"

/** The server could not be started, or did not answer in time. */
export class DynamoServerError extends Data.TaggedError("DynamoServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** A running (or killed, or frozen) server. Its credentials and region may be any. */
export interface DynamoServer {
  readonly host: string
  readonly port: number
  readonly endpoint: string
  /** SIGKILL; what it held is lost. Returns when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Starts it again on the same port, empty. */
  readonly start: Effect.Effect<void, DynamoServerError>
  /** SIGSTOP: the kernel still accepts connections, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
}

/** Starts the program for the life of the scope; it listens on the port that it is given. */
export const run = (
  name: string,
  binary: string,
  argv: (port: number) => ReadonlyArray<string>,
  limit: number
): Effect.Effect<DynamoServer, DynamoServerError, Scope.Scope> =>
  Effect.gen(function* () {
    let port = yield* Machine.freePort
    const host = Machine.host
    const daemon = yield* Machine.daemon(binary, () => argv(port))
    const failed = (description: string) => new DynamoServerError({ description, log: daemon.log().slice(-2_000) })

    const ready = Effect.suspend(() =>
      Effect.flatMap(
        Effect.promise(() => answers(host, port)),
        (there) =>
          daemon.pid() === undefined
            ? Effect.fail(failed(`${name} did not start`))
            : Effect.succeed(there ? true : undefined)
      )
    )
    const start = Effect.zipRight(
      daemon.launch,
      Effect.asVoid(Machine.until(ready, limit, () => failed(`${name} was not ready within ${limit / 1_000} s`), 50))
    )
    // Between choosing a port and using it, somebody else may take it.
    const startFirst = (left: number): Effect.Effect<void, DynamoServerError> =>
      Effect.catchIf(
        start,
        () => left > 0 && /EADDRINUSE|already in use|BindException/.test(daemon.log()),
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
      endpoint: `http://${host}:${port}`,
      kill: daemon.end("SIGKILL"),
      start,
      freeze: daemon.freeze,
      thaw: daemon.thaw
    }
  })

/** Whether something lists its tables there. */
const answers = async (host: string, port: number): Promise<boolean> => {
  try {
    const response = await fetch(`http://${host}:${port}/`, {
      method: "POST",
      headers: {
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": "DynamoDB_20120810.ListTables",
        "x-amz-date": "20260101T000000Z",
        authorization:
          "AWS4-HMAC-SHA256 Credential=probe/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host;x-amz-date, Signature=00"
      },
      body: "{}",
      signal: AbortSignal.timeout(2_000)
    })
    const body = await response.text()
    return response.ok && body.includes("TableNames")
  } catch {
    return false
  }
}
