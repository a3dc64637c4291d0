/**
 * What can be asked over a line, be it the shared connection, one node of a Cluster or an isolated connection: commands,
 * pipelines, scripts, transactions.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import { type Answer, type Call, type Core, failure, notSent, type Part, type Settle } from "./call.ts"
import * as Commands from "./commands.ts"
import type { Argument } from "./driver.ts"
import type * as Model from "./model.ts"

/** Where calls go. */
export interface Line {
  /** Begins a call. What is given back, if anything, takes it back while it is not sent. */
  readonly submit: (call: Call) => (() => void) | undefined
  readonly cork: () => void
  readonly uncork: () => void
  readonly place: "shared" | "isolated"
}

export interface Operations {
  readonly send: Model.Service["send"]
  readonly sendBuffer: Model.Service["sendBuffer"]
  readonly sendMany: Model.Service["sendMany"]
  readonly sendManyBuffer: Model.Service["sendManyBuffer"]
  readonly run: Model.Service["run"]
  readonly runBuffer: Model.Service["runBuffer"]
  readonly transaction: Model.Service["transaction"]
  readonly block: Model.Isolated["block"]
}

type TakeBack = (() => void) | undefined

export const make = (core: Core, line: Line): Operations => {
  const { counts } = core

  const command = (
    name: string,
    args: ReadonlyArray<Argument>,
    binary: boolean,
    deadline: number,
    settle: Settle
  ): TakeBack => {
    const upper = name.toUpperCase()
    const refused = Commands.refusal(upper, args, line.place)
    if (refused !== undefined) {
      settle(notSent(counts, "Rejected", upper, refused))
      return undefined
    }
    return line.submit({
      method: upper,
      part: { name: upper, args },
      burst: undefined,
      binary,
      deadline,
      settle,
      refused: undefined,
      received: 0
    })
  }

  const script = (
    { name, sha, source }: Model.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Argument>,
    binary: boolean,
    deadline: number,
    settle: Settle
  ): TakeBack => {
    let abandoned = false
    const call = (command: string, body: string, settle: Settle): Call => ({
      method: name,
      part: { name: command, args: [body, keys.length, ...keys, ...args] },
      burst: undefined,
      binary,
      deadline,
      settle,
      refused: undefined,
      received: 0
    })
    const takeBack = line.submit(
      call("EVALSHA", sha, (result) => {
        // the server has not seen it yet, or has forgotten it: nothing was done
        if (!abandoned && Either.isLeft(result) && result.left.code === "NOSCRIPT") {
          line.submit(call("EVAL", source, settle))
        } else settle(result)
      })
    )
    // what is sent is sent: without a way back an interruption costs nothing to be ready for
    if (takeBack === undefined) return undefined
    return () => {
      abandoned = true
      takeBack()
    }
  }

  const step = (one: Model.Step, binary: boolean, deadline: number, settle: Settle): TakeBack => {
    if ("script" in one) return script(one.script, one.keys, one.args, binary, deadline, settle)
    const [name, ...args] = one
    return command(name, args, binary, deadline, settle)
  }

  const due = (): number => performance.now() + core.commandTimeout

  const send =
    <A>(binary: boolean) =>
    (...[name, ...args]: Model.Command): Effect.Effect<A, RedisError> =>
      Effect.async<A, RedisError>((resume) => {
        const takeBack = command(name, args, binary, due(), resume as Settle)
        return takeBack === undefined ? undefined : Effect.sync(takeBack)
      })

  const run =
    <A>(binary: boolean) =>
    (one: Model.Script, keys: ReadonlyArray<string>, args: ReadonlyArray<Argument>): Effect.Effect<A, RedisError> =>
      Effect.async<A, RedisError>((resume) => {
        const takeBack = script(one, keys, args, binary, due(), resume as Settle)
        return takeBack === undefined ? undefined : Effect.sync(takeBack)
      })

  const sendMany =
    <A>(binary: boolean) =>
    (steps: ReadonlyArray<Model.Step>): Effect.Effect<ReadonlyArray<Either.Either<A, RedisError>>> => {
      if (steps.length === 0) return Effect.succeed([])
      return Effect.async((resume) => {
        const results: Array<Either.Either<A, RedisError>> = new Array(steps.length)
        let left = steps.length
        const deadline = due()
        line.cork()
        const takeBack = steps.map((one, index) =>
          step(one, binary, deadline, (result) => {
            results[index] = result as Either.Either<A, RedisError>
            left--
            if (left === 0) resume(Effect.succeed(results))
          })
        )
        line.uncork()
        return Effect.sync(() => {
          for (const one of takeBack) one?.()
        })
      })
    }

  const transaction = (
    steps: ReadonlyArray<Model.Step>
  ): Effect.Effect<ReadonlyArray<Either.Either<Model.Reply, RedisError>>, RedisError> => {
    if (steps.length === 0) return Effect.succeed([])
    return Effect.async((resume) => {
      const parts: Array<Part> = []
      const methods: Array<string> = []
      for (const one of steps) {
        if ("script" in one) {
          methods.push(one.script.name)
          // by its source: a hash that the server does not know would fail while the others are applied
          parts.push({ name: "EVAL", args: [one.script.source, one.keys.length, ...one.keys, ...one.args] })
          continue
        }
        const [name, ...args] = one
        const upper = name.toUpperCase()
        const refused = Commands.refusal(upper, args, "transaction")
        if (refused !== undefined) {
          resume(notSent(counts, "Rejected", upper, refused))
          return undefined
        }
        methods.push(upper)
        parts.push({ name: upper, args })
      }
      const takeBack = line.submit({
        method: "MULTI",
        part: multi,
        burst: [multi, ...parts, exec],
        binary: false,
        deadline: due(),
        settle: (result) =>
          resume(
            Either.isLeft(result) ? Either.left(result.left) : outcome(methods, result.right as ReadonlyArray<Answer>)
          ),
        refused: undefined,
        received: 0
      })
      return takeBack === undefined ? undefined : Effect.sync(takeBack)
    })
  }

  return {
    send: send(false),
    sendBuffer: send(true),
    sendMany: sendMany(false),
    sendManyBuffer: sendMany(true),
    run: run(false),
    runBuffer: run(true),
    transaction,
    block: (timeout, ...[name, ...args]) =>
      Effect.async((resume) => {
        const deadline = performance.now() + Duration.toMillis(timeout) + grace
        const takeBack = command(name, args, false, deadline, resume as Settle)
        return takeBack === undefined ? undefined : Effect.sync(takeBack)
      })
  }
}

const multi: Part = { name: "MULTI", args: [] }
const exec: Part = { name: "EXEC", args: [] }

/** What a blocking command is given beyond its own time, in milliseconds. */
const grace = 1_000

type Results = ReadonlyArray<Either.Either<Model.Reply, RedisError>>

/** What the answers to MULTI, the steps and EXEC mean. */
const outcome = (
  methods: ReadonlyArray<string>,
  answers: ReadonlyArray<Answer>
): Either.Either<Results, RedisError> => {
  const begun = answers[0]
  const ended = answers[answers.length - 1]
  if (begun?.problem !== undefined) {
    // without MULTI the steps were run one by one, or refused one by one
    const error = RedisError.fromUnknown("MULTI", begun.problem, true)
    const code = error.code
    return Either.left(
      failure({
        reason: error.reason,
        outcome: "unknown",
        method: "MULTI",
        description: "the server refused to begin a transaction",
        ...(code === undefined ? {} : { code })
      })
    )
  }
  if (ended?.problem !== undefined) {
    for (const [index, method] of methods.entries()) {
      const problem = answers[index + 1]?.problem
      if (problem !== undefined) return Either.left(RedisError.fromUnknown(method, problem, true))
    }
    return Either.left(RedisError.fromUnknown("EXEC", ended.problem, true))
  }
  const replies = ended?.reply
  if (Array.isArray(replies)) {
    return Either.right(
      methods.map((method, index) => {
        const reply: unknown = replies[index]
        return reply instanceof Error
          ? Either.left(RedisError.fromUnknown(method, reply, true))
          : Either.right(reply as Model.Reply)
      })
    )
  }
  return Either.left(
    failure({
      reason: "Conflict",
      outcome: "rejected",
      method: "EXEC",
      description: "a key that was watched has changed: nothing was done"
    })
  )
}
