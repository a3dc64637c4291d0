/**
 * Asks Sentinels who the master is: all at once, and the one that knows of the latest failover is believed.
 */
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import type { Address } from "../RedisSettings.ts"
import * as Attempt from "./attempt.ts"
import { type Core, failure } from "./call.ts"
import type { Target } from "./driver.ts"

export interface SentinelOptions {
  readonly sentinels: ReadonlyArray<Address>
  readonly master: string
  readonly greeting: Attempt.Greeting
  /** How a Sentinel is connected to. */
  readonly sentinelAt: (address: Address) => Target
  /** How the master is connected to. */
  readonly masterAt: (address: Address) => Target
}

export interface Sentinels {
  /** Where the master is. */
  readonly locate: Attempt.Locate
  /** A Sentinel, another with every question: for the news of them. */
  readonly locateSentinel: Attempt.Locate
}

/** How long the others are waited for when one has answered, in milliseconds. */
const patience = 150

/** More are not learned: a list that only grows is none. */
const most = 32

interface Found {
  readonly address: Address
  readonly epoch: number
}

export const make = (core: Core, options: SentinelOptions): Sentinels => {
  const key = ({ host, port }: Address): string => `${host}:${port}`
  /** Those of the settings first, then those that they told us of. */
  const known = new Map(options.sentinels.map((address) => [key(address), address]))
  let turn = 0

  const learn = (reply: unknown): void => {
    if (!Array.isArray(reply)) return
    for (const one of reply) {
      const fields = fieldsOf(one)
      const port = Number(fields.get("port"))
      const host = fields.get("ip")
      if (host === undefined || host === "" || !Number.isInteger(port) || port < 1) continue
      const address = { host, port }
      if (known.size < most && !known.has(key(address))) known.set(key(address), address)
    }
  }

  const ask = (address: Address, done: (result: Either.Either<Found, RedisError>) => void): (() => void) => {
    let link: { readonly close: () => void } | undefined
    const cancel = Attempt.begin(
      core,
      { locate: at(options.sentinelAt(address)), greeting: options.greeting },
      (result) => {
        if (Either.isLeft(result)) {
          done(Either.left(result.left))
          return
        }
        const opened = result.right
        let answered = false
        const finish = (found: Either.Either<Found, RedisError>): void => {
          if (answered) return
          answered = true
          opened.link.close()
          done(found)
        }
        link = opened.link
        opened.onClosed = (problem) => finish(Either.left(RedisError.fromUnknown("connect", problem, false)))
        let epoch = 0
        opened.link.cork()
        // who may not ask for it has no epoch, and still an address
        opened.link.send("SENTINEL", ["MASTER", options.master], false, (_, reply) => {
          epoch = Number(fieldsOf(reply).get("config-epoch")) || 0
        })
        opened.link.send("SENTINEL", ["SENTINELS", options.master], false, (_, reply) => learn(reply))
        opened.link.send("SENTINEL", ["GET-MASTER-ADDR-BY-NAME", options.master], false, (problem, reply) => {
          if (problem !== undefined) finish(Either.left(RedisError.fromUnknown("connect", problem, false)))
          else if (Array.isArray(reply) && typeof reply[0] === "string") {
            finish(Either.right({ address: { host: reply[0], port: Number(reply[1]) }, epoch }))
          } else finish(Either.left(unknown))
        })
        opened.link.uncork()
      }
    )
    return () => {
      cancel()
      link?.close()
    }
  }

  const unknown = failure({
    reason: "Rejected",
    outcome: "not-sent",
    method: "connect",
    description: "the Sentinels know no master of this name"
  })

  const locate: Attempt.Locate = (done) => {
    let best: Found | undefined
    let problem: RedisError | undefined
    let timer: ReturnType<typeof setTimeout> | undefined
    let over = false
    const all = [...known.values()]
    let left = all.length
    const cancels: Array<() => void> = []
    const stop = (): void => {
      over = true
      clearTimeout(timer)
      for (const cancel of cancels) cancel()
    }
    const decide = (): void => {
      stop()
      done(
        best === undefined
          ? Either.left(
              problem ??
                failure({
                  reason: "Unavailable",
                  outcome: "not-sent",
                  method: "connect",
                  description: "no Sentinel answers"
                })
            )
          : Either.right(options.masterAt(best.address))
      )
    }
    for (const address of all) {
      cancels.push(
        ask(address, (result) => {
          if (over) return
          left--
          if (Either.isRight(result)) {
            if (best === undefined || result.right.epoch > best.epoch) best = result.right
            timer ??= setTimeout(decide, patience)
            // what a Sentinel says of the master, or of us, tells more than that another cannot be reached
          } else if (problem === undefined || problem.reason === "Unavailable") problem = result.left
          if (left === 0) decide()
        })
      )
    }
    return stop
  }

  return {
    locate,
    locateSentinel: (done) => {
      const all = [...known.values()]
      const address = all[turn++ % all.length]
      if (address !== undefined) done(Either.right(options.sentinelAt(address)))
      return () => {}
    }
  }
}

/** A place that is known. */
export const at =
  (target: Target): Attempt.Locate =>
  (done) => {
    done(Either.right(target))
    return () => {}
  }

/** Names and values in turns, as a map. */
const fieldsOf = (reply: unknown): ReadonlyMap<string, string> => {
  const fields = new Map<string, string>()
  if (!Array.isArray(reply)) return fields
  for (let index = 0; index + 1 < reply.length; index += 2) fields.set(String(reply[index]), String(reply[index + 1]))
  return fields
}
