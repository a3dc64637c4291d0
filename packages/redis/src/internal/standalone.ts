/**
 * One server, always the same or the one that Sentinel calls the master: every call goes over one connection.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type { Address, RedisSettings } from "../RedisSettings.ts"
import type * as Attempt from "./attempt.ts"
import type { Core } from "./call.ts"
import * as Connection from "./connection.ts"
import type { Target, Tls } from "./driver.ts"
import * as Isolated from "./isolated.ts"
import type * as Model from "./model.ts"
import type { Router, RouterOptions } from "./router.ts"
import * as Sentinel from "./sentinel.ts"
import * as Subscriber from "./subscriber.ts"

/** How a server of these settings is connected to. */
export const targetOf =
  (core: Core, tls: Tls | undefined) =>
  ({ host, port }: Address): Target => ({ host, port, tls, connectTimeout: core.connectTimeout })

/** What is said to a server of these settings. */
export const greetingOf = (settings: RedisSettings, name: string | undefined): Attempt.Greeting => ({
  username: Option.getOrUndefined(settings.username),
  password: Option.getOrUndefined(Option.map(settings.password, Redacted.value)),
  db: settings.db,
  name,
  master: settings.topology === "sentinel"
})

export const make = ({ apart, core, name, onState, settings, tls }: RouterOptions): Router => {
  const targetAt = targetOf(core, settings.tls ? tls : undefined)
  const greeting = greetingOf(settings, name)
  const master = Option.getOrUndefined(settings.master)
  const sentinelGreeting: Attempt.Greeting = {
    username: Option.getOrUndefined(settings.sentinelUsername),
    password: Option.getOrUndefined(Option.map(settings.sentinelPassword, Redacted.value)),
    db: 0,
    name,
    master: false
  }
  const sentinels =
    settings.topology === "sentinel" && master !== undefined
      ? Sentinel.make(apart(), {
          sentinels: settings.sentinels,
          master,
          greeting: sentinelGreeting,
          sentinelAt: targetOf(core, settings.sentinelTls ? tls : undefined),
          masterAt: targetAt
        })
      : undefined
  const attempt: Attempt.AttemptOptions = { locate: sentinels?.locate ?? Sentinel.at(targetAt(settings)), greeting }

  // the Sentinels say at once when there is another master: the old one may answer for a while yet
  const news =
    sentinels === undefined
      ? undefined
      : Subscriber.make(apart(), { locate: sentinels.locateSentinel, greeting: sentinelGreeting })
  let heard = false
  const hear = (): void => {
    if (heard) return
    heard = true
    news?.attach("subscribe", ["+switch-master"], (event) => {
      if (event._tag === "Message" && event.payload.split(" ")[0] === master) connection.refresh(true)
    })
  }

  const connection = Connection.make(core, {
    ...attempt,
    onState: (state) => {
      if (state === "ready") hear()
      onState(state)
    }
  })
  const onRefused = (code: string | undefined): void => {
    if (code === "READONLY") connection.refresh()
  }
  return {
    topology: sentinels === undefined ? "standalone" : "sentinel",
    state: connection.state,
    problem: connection.problem,
    connect: connection.connect,
    begun: () => {
      const state = connection.state()
      if (state === "ready") return Either.right(undefined)
      return state === "away" ? Either.left(connection.problem()) : undefined
    },
    submit: connection.submit,
    cork: connection.cork,
    uncork: connection.uncork,
    place: () =>
      Effect.suspend(() =>
        connection.state() === "away" && core.answerAtOnce
          ? Effect.fail(Isolated.unavailable(connection.problem()))
          : Effect.succeed({ id: connection.id() ?? "", attempt, onRefused })
      ),
    listening: attempt,
    nodes: ({ send, sendMany }): Effect.Effect<ReadonlyArray<Model.Node>> =>
      Effect.sync(() => [{ id: connection.id() ?? `${settings.host}:${settings.port}`, send, sendMany }]),
    close: () => {
      news?.close()
      connection.close()
    }
  }
}
