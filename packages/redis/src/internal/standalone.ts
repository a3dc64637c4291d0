/**
 * One server, always the same or the one that Sentinel calls the master: every call goes over one connection.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as RedisClient from "../RedisClient.ts"
import type { RedisSettings } from "../RedisSettings.ts"
import type * as Attempt from "./attempt.ts"
import type { Core } from "./call.ts"
import * as Connection from "./connection.ts"
import type { Router } from "./router.ts"

export const make = (
  core: Core,
  settings: RedisSettings,
  name: string | undefined,
  onState: (state: RedisClient.ConnectionState) => void
): Router => {
  const target = { host: settings.host, port: settings.port, tls: undefined, connectTimeout: core.connectTimeout }
  const attempt: Attempt.AttemptOptions = {
    locate: (done) => {
      done(Either.right(target))
      return () => {}
    },
    greeting: {
      username: Option.getOrUndefined(settings.username),
      password: Option.getOrUndefined(Option.map(settings.password, Redacted.value)),
      db: settings.db,
      name,
      master: false
    }
  }
  const connection = Connection.make(core, { ...attempt, onState })
  const onRefused = (code: string | undefined): void => {
    if (code === "READONLY") connection.refresh()
  }
  return {
    topology: "standalone",
    state: connection.state,
    problem: connection.problem,
    connect: connection.connect,
    submit: connection.submit,
    cork: connection.cork,
    uncork: connection.uncork,
    place: () => Effect.succeed({ id: "", attempt, onRefused }),
    listening: attempt,
    nodes: ({ send, sendMany }) => Effect.succeed([{ id: `${settings.host}:${settings.port}`, send, sendMany }]),
    close: connection.close
  }
}
