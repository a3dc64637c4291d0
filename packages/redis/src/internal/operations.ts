/**
 * What can be asked over a line, be it the shared connection, one node of a Cluster or an isolated connection: commands,
 * pipelines, scripts, transactions.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import {
  Among,
  type Answer,
  type Call,
  type Core,
  failure,
  notSent,
  type Part,
  type Resume,
  type Settle,
  Single,
  type TakeBack
} from "./call.ts"
import * as Commands from "./commands.ts"
import type { Argument } from "./driver.ts"
import type * as Model from "./model.ts"

/** Where calls go. */
export interface Line {
  /** Begins a call. What is given back, if anything, takes it back while it is not sent. */
  readonly submit: (call: Call) => TakeBack
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

export const make = (core: Core, line: Line): Operations => {
  const { counts } = core

  const due = (): number => performance.now() + core.commandTimeout

  /** The way back of a call that waits, as what an interruption runs. */
  const wayBack = (takeBack: TakeBack): Effect.Effect<void> | undefined =>
    takeBack === undefined ? undefined : Effect.sync(takeBack)

  const refusal = (name: string, args: ReadonlyArray<Argument>): Either.Either<never, RedisError> | undefined => {
    const refused = Commands.refusal(name, args, line.place)
    return refused === undefined ? undefined : notSent(counts, "Rejected", name, refused)
  }

  const command = (
    name: string,
    args: ReadonlyArray<Argument>,
    binary: boolean,
    deadline: number,
    resume: Resume
  ): Effect.Effect<void> | undefined => {
    const upper = name.toUpperCase()
    const refused = refusal(upper, args)
    if (refused !== undefined) {
      resume(refused)
      return undefined
    }
    return wayBack(line.submit(new Single(upper, { name: upper, args }, undefined, binary, deadline, resume)))
  }

  const send =
    <A>(binary: boolean) =>
    (...[name, ...args]: Model.Command): Effect.Effect<A, RedisError> =>
      Effect.async<A, RedisError>((resume) => command(name, args, binary, due(), resume as Resume))

  const run =
    <A>(binary: boolean) =>
    (
      { name, sha, source }: Model.Script,
      keys: ReadonlyArray<string>,
      args: ReadonlyArray<Argument>
    ): Effect.Effect<A, RedisError> =>
      Effect.async<A, RedisError>((resume) => {
        const deadline = due()
        const call = new Single(
          name,
          evalSha(sha, keys, args),
          undefined,
          binary,
          deadline,
          resume as Resume,
          (message) => {
            if (!unknownScript(message)) return false
            call.again(() =>
              line.submit(new Single(name, evalWhole(source, keys, args), undefined, binary, deadline, call.settle))
            )
            return true
          }
        )
        return wayBack(line.submit(call))
      })

  const sendMany =
    <A>(binary: boolean) =>
    (steps: ReadonlyArray<Model.Step>): Effect.Effect<ReadonlyArray<Either.Either<A, RedisError>>> => {
      if (steps.length === 0) return Effect.succeed([])
      return Effect.async((resume) => {
        const results: Array<Either.Either<A, RedisError>> = new Array(steps.length)
        const calls: Array<Among> = []
        let left = steps.length
        const deadline = due()
        const submit = (call: Among): void => call.again(() => line.submit(call))
        line.cork()
        for (const [index, one] of steps.entries()) {
          const settle: Settle = (result) => {
            results[index] = result as Either.Either<A, RedisError>
            left--
            if (left === 0) resume(Effect.succeed(results))
          }
          if ("script" in one) {
            const { args, keys } = one
            const { name, sha, source } = one.script
            const call = new Among(name, evalSha(sha, keys, args), binary, deadline, settle, (message) => {
              if (!unknownScript(message)) return false
              call.again(() => {
                const whole = new Among(name, evalWhole(source, keys, args), binary, deadline, settle)
                calls.push(whole)
                return line.submit(whole)
              })
              return true
            })
            calls.push(call)
            submit(call)
            continue
          }
          const [name, ...args] = one
          const upper = name.toUpperCase()
          const refused = refusal(upper, args)
          if (refused !== undefined) {
            settle(refused)
            continue
          }
          const call = new Among(upper, { name: upper, args }, binary, deadline, settle)
          calls.push(call)
          submit(call)
        }
        line.uncork()
        return Effect.sync(() => {
          for (const call of calls) call.takeBack()
        })
      })
    }

  const transaction = (
    steps: ReadonlyArray<Model.Step>
  ): Effect.Effect<ReadonlyArray<Either.Either<Model.Reply, RedisError>>, RedisError> => {
    if (steps.length === 0) return Effect.succeed([])
    return Effect.suspend(() => {
      const parts: Array<Part> = []
      const methods: Array<string> = []
      for (const one of steps) {
        if ("script" in one) {
          methods.push(one.script.name)
          // by its source: a hash that the server does not know would fail while the others are applied
          parts.push(evalWhole(one.script.source, one.keys, one.args))
          continue
        }
        const [name, ...args] = one
        const upper = name.toUpperCase()
        const refused = Commands.refusal(upper, args, "transaction")
        if (refused !== undefined) return notSent(counts, "Rejected", upper, refused)
        methods.push(upper)
        parts.push({ name: upper, args })
      }
      const answers = Effect.async<ReadonlyArray<Answer>, RedisError>((resume) =>
        wayBack(line.submit(new Single("MULTI", multi, [multi, ...parts, exec], false, due(), resume as Resume)))
      )
      return Effect.flatMap(answers, (answers) => outcome(methods, answers))
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
      Effect.async((resume) =>
        command(name, args, false, performance.now() + Duration.toMillis(timeout) + grace, resume as Resume)
      )
  }
}

const evalSha = (sha: string, keys: ReadonlyArray<string>, args: ReadonlyArray<Argument>): Part => ({
  name: "EVALSHA",
  args: [sha, keys.length, ...keys, ...args]
})

const evalWhole = (source: string, keys: ReadonlyArray<string>, args: ReadonlyArray<Argument>): Part => ({
  name: "EVAL",
  args: [source, keys.length, ...keys, ...args]
})

/** The server has not seen it yet, or has forgotten it: nothing was done. */
const unknownScript = (message: string): boolean => message.startsWith("NOSCRIPT")

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
