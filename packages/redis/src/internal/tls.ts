/**
 * The TLS material of the settings: text, or what stands in a file.
 */
import * as Fs from "node:fs"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { RedisError } from "../RedisError.ts"
import type { RedisSettings } from "../RedisSettings.ts"
import type { Tls } from "./driver.ts"

/** Reads the files that the settings name. */
export const read = (settings: RedisSettings): Effect.Effect<Tls, RedisError> =>
  Effect.gen(function* () {
    const ca = yield* material("authority", Option.getOrUndefined(settings.ca))
    const cert = yield* material("certificate", Option.getOrUndefined(settings.cert))
    const key = yield* material("key", Option.getOrUndefined(Option.map(settings.key, Redacted.value)))
    const serverName = Option.getOrUndefined(settings.serverName)
    return { ca, cert, key, serverName, rejectUnauthorized: settings.rejectUnauthorized }
  })

const material = (what: string, value: string | undefined): Effect.Effect<string | undefined, RedisError> => {
  if (value === undefined || value.includes("-----BEGIN")) return Effect.succeed(value)
  return Effect.try({
    try: () => Fs.readFileSync(value, "utf8"),
    catch: (cause) =>
      new RedisError({
        reason: "Rejected",
        outcome: "not-sent",
        method: "connect",
        description: `the file of the TLS ${what} cannot be read`,
        ...(cause instanceof Error && "code" in cause && typeof cause.code === "string" ? { code: cause.code } : {})
      })
  })
}
