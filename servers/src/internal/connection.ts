/** A connection for what a test arranges behind the back of the client it tests. Failures are texts. */
import * as Net from "node:net"
import * as Tls from "node:tls"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Certificates } from "./certificates.ts"
import * as Resp from "./resp.ts"

/** Where a server is and what it wants to see. */
export interface Target {
  readonly host: string
  readonly port: number
  readonly password?: string | undefined
  readonly certificates?: Certificates | undefined
}

/** One reply, read and as it came. */
export interface Answer {
  readonly value: Resp.Reply
  readonly bytes: Buffer
}

/** A connection that is ready for commands. */
export interface Connection {
  /** Sends the commands in one go and gives their replies in order; errors among them are replies too. */
  readonly exchange: (commands: ReadonlyArray<ReadonlyArray<string>>) => Effect.Effect<ReadonlyArray<Answer>, string>
  /** The reply to one command. An error reply is a failure. */
  readonly call: (...parts: ReadonlyArray<string>) => Effect.Effect<Resp.Reply, string>
  /** The replies to commands that are sent in one go. Fails with the first error reply. */
  readonly calls: (commands: ReadonlyArray<ReadonlyArray<string>>) => Effect.Effect<ReadonlyArray<Resp.Reply>, string>
}

/** Connects for the life of the scope. Every exchange is answered within `limit` milliseconds, or fails. */
export const connect = (target: Target, limit = 5_000): Effect.Effect<Connection, string, Scope.Scope> =>
  Effect.gen(function* () {
    const { certificates, host, password, port } = target
    const reader = new Resp.Reader(Resp.readReply)
    const answers: Array<Answer> = []
    let broken: string | undefined
    let notify: () => void = () => {}

    const socket = yield* Effect.acquireRelease(
      Effect.sync(
        (): Net.Socket =>
          certificates === undefined
            ? Net.connect({ host, port })
            : Tls.connect({ host, port, ca: certificates.ca, cert: certificates.cert, key: certificates.key })
      ),
      (open) => Effect.sync(() => open.destroy())
    )
    socket.setNoDelay(true)
    const fail = (description: string) => {
      broken ??= description
      notify()
    }
    socket.on("error", (error) => fail(error.message))
    socket.on("close", () => fail("the server closed the connection"))
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const one of reader.take(chunk)) if (!(one.value instanceof Resp.Push)) answers.push(one)
      } catch (cause) {
        fail(String(cause))
      }
      notify()
    })

    const exchange: Connection["exchange"] = (commands) =>
      Effect.async((resume) => {
        const settle = (result: Effect.Effect<ReadonlyArray<Answer>, string>) => {
          clearTimeout(timer)
          notify = () => {}
          resume(result)
        }
        const timer = setTimeout(() => {
          socket.destroy()
          settle(Effect.fail(`the server did not answer within ${limit / 1_000} s`))
        }, limit)
        notify = () => {
          if (answers.length >= commands.length) settle(Effect.succeed(answers.splice(0, commands.length)))
          else if (broken !== undefined) settle(Effect.fail(broken))
        }
        if (broken === undefined) socket.write(Buffer.concat(commands.map((parts) => Resp.encode(parts))))
        notify()
        return Effect.sync(() => {
          clearTimeout(timer)
          socket.destroy()
        })
      })

    const calls: Connection["calls"] = (commands) =>
      Effect.flatMap(exchange(commands), (replies) => {
        const error = replies.find((reply) => reply.value instanceof Resp.ReplyError)?.value
        return error instanceof Resp.ReplyError
          ? Effect.fail(error.message)
          : Effect.succeed(replies.map((reply) => reply.value))
      })

    const call: Connection["call"] = (...parts) => Effect.map(calls([parts]), ([reply]) => reply ?? null)

    if (password !== undefined) yield* call("AUTH", password)
    return { exchange, call, calls }
  })
