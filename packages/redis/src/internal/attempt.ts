/**
 * One attempt to get a connection that is ready: where the server is, the connection itself, the greeting (credentials,
 * name, database), and the question whether the server can serve.
 */
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import { type Core, failure, type Part } from "./call.ts"
import type { Link, LinkEvents, Target } from "./driver.ts"

/** Finds out where the server is; gives back what cancels the question. */
export type Locate = (done: (found: Either.Either<Target, RedisError>) => void) => () => void

/** What is said to a server before anything else. */
export interface Greeting {
  readonly username: string | undefined
  readonly password: string | undefined
  readonly db: number
  readonly name: string | undefined
  /** Whether the server must say that it is a master. */
  readonly master: boolean
  /** The beginnings of the keys whose changes this connection is to be told of. */
  readonly track?: ReadonlyArray<string> | undefined
}

/** A connection that is ready. Who gets it hears of its end by setting `onClosed`. */
export interface Opened {
  readonly link: Link
  readonly target: Target
  onClosed: (problem: unknown) => void
}

export interface AttemptOptions {
  readonly locate: Locate
  readonly greeting: Greeting
  readonly onMessage?: LinkEvents["onMessage"]
  readonly onInvalidated?: LinkEvents["onInvalidated"]
}

/** Begins an attempt. `done` is called once, unless the attempt is cancelled by what is given back. */
export const begin = (
  core: Core,
  { greeting, locate, onInvalidated, onMessage }: AttemptOptions,
  done: (result: Either.Either<Opened, RedisError>) => void
): (() => void) => {
  let over = false
  let link: Link | undefined

  const finish = (result: Either.Either<Opened, RedisError>): void => {
    if (over) return
    over = true
    clearTimeout(timer)
    stopLocating()
    if (Either.isLeft(result)) link?.close()
    done(result)
  }
  const fail = (error: RedisError): void => finish(Either.left(error))

  // the server may accept and then not answer
  const timer = setTimeout(
    () =>
      fail(
        failure({
          reason: "Timeout",
          outcome: "not-sent",
          method: "connect",
          description: `the server was not ready within ${core.connectTimeout} ms`
        })
      ),
    core.connectTimeout
  )

  let stopLocating = (): void => {}
  core.counts.attempts++
  stopLocating = locate((found) => {
    if (over) return
    if (Either.isLeft(found)) {
      fail(found.left)
      return
    }
    const target = found.right
    let opened: Opened | undefined
    link = core.open(target, {
      onOpen: () => {
        if (over || link === undefined) return
        const current = link
        greet(current, greeting, (problem) => {
          if (over) return
          if (problem !== undefined) fail(problem)
          else {
            opened = { link: current, target, onClosed: () => {} }
            finish(Either.right(opened))
          }
        })
      },
      onClosed: (problem) => {
        if (opened !== undefined) opened.onClosed(problem)
        else fail(RedisError.fromUnknown("connect", problem, false))
      },
      onMessage,
      onInvalidated
    })
  })

  return () => {
    if (over) return
    over = true
    clearTimeout(timer)
    stopLocating()
    link?.close()
  }
}

/** Says who we are, all in one go, and listens to every answer. */
const greet = (link: Link, greeting: Greeting, done: (problem: RedisError | undefined) => void): void => {
  const questions: Array<{ readonly part: Part; readonly check: Check }> = []
  if (greeting.password !== undefined || greeting.username !== undefined) {
    const password = greeting.password ?? ""
    const args = greeting.username === undefined ? [password] : [greeting.username, password]
    questions.push({ part: { name: "AUTH", args }, check: admitted })
  }
  if (greeting.name !== undefined) {
    questions.push({ part: { name: "CLIENT", args: ["SETNAME", greeting.name] }, check: () => undefined })
  }
  if (greeting.db !== 0) questions.push({ part: { name: "SELECT", args: [greeting.db] }, check: selected })
  if (greeting.master) questions.push({ part: { name: "ROLE", args: [] }, check: isMaster })
  questions.push({ part: { name: "PING", args: [] }, check: serves })

  let left = questions.length
  link.cork()
  for (const { check, part } of questions) {
    link.send(part.name, part.args, false, (problem, reply) => {
      if (left <= 0) return
      left--
      const wrong = check(problem, reply)
      if (wrong !== undefined) {
        left = 0
        done(wrong)
      } else if (left === 0 && greeting.track === undefined) done(undefined)
      else if (left === 0) track(link, greeting.track, done)
    })
  }
  link.uncork()
}

/** Has the server tell this connection of changes: as another one would be lost without this one knowing it. */
const track = (
  link: Link,
  prefixes: ReadonlyArray<string> = [],
  done: (problem: RedisError | undefined) => void
): void => {
  const failed = (problem: unknown): void => done(RedisError.fromUnknown("CLIENT TRACKING", problem, true))
  link.send("CLIENT", ["ID"], false, (problem, id) => {
    if (problem !== undefined || typeof id !== "number") {
      failed(problem)
      return
    }
    const args = ["TRACKING", "ON", "REDIRECT", id, "BCAST", ...prefixes.flatMap((prefix) => ["PREFIX", prefix])]
    link.send("CLIENT", args, false, (problem) => (problem === undefined ? done(undefined) : failed(problem)))
  })
}

type Check = (problem: unknown, reply: unknown) => RedisError | undefined

const messageOf = (problem: unknown): string => (problem instanceof Error ? problem.message : "")

const admitted: Check = (problem) =>
  problem === undefined || needless.test(messageOf(problem))
    ? undefined
    : RedisError.fromUnknown("connect", problem, false)

/** The server lets everybody in: a password that it does not want is no problem. */
const needless = /no password is set|without any password configured for the default user/

const selected: Check = (problem) => (problem === undefined ? undefined : RedisError.fromDatabase("connect", problem))

const isMaster: Check = (problem, reply) => {
  if (problem !== undefined) return forbidden(problem) ? undefined : RedisError.fromUnknown("connect", problem, false)
  if (Array.isArray(reply) && reply[0] === "master") return undefined
  return failure({
    reason: "NotReady",
    outcome: "not-sent",
    method: "connect",
    description: "the server is not the master yet"
  })
}

/** A user that may not ask can still be served. */
const forbidden = (problem: unknown): boolean => messageOf(problem).startsWith("NOPERM")

const serves: Check = (problem) =>
  problem === undefined || forbidden(problem) ? undefined : RedisError.fromUnknown("connect", problem, false)
