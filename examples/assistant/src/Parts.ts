/**
 * The parts that the assistant is made of, each embedded in this process or a real service elsewhere, chosen by the
 * settings: sessions (memory or Redis), the index (PGlite or PostgreSQL), and who answers (a language model or the local
 * answerer).
 *
 * @since 0.1.0
 */
import { PGlite, PgVector, Postgres } from "@underlay/connections"
import { ConversationMemory, Embeddings, SessionStore, type VectorStore } from "@underlay/core"
import { RedisClient, RedisConversationMemory, RedisHealth, RedisSessionStore } from "@underlay/redis"
import { Context, Layer, Option, Redacted, Schema } from "effect"
import type { AppSettings } from "./AppSettings.ts"

/**
 * One part. `check` is the name of its health check, `switch` how to make it real.
 *
 * @since 0.1.0
 * @category models
 */
export interface Part {
  readonly name: "sessions" | "search" | "embeddings" | "answers"
  readonly mode: "embedded" | "real"
  readonly what: string
  readonly address?: string | undefined
  readonly switch?: string | undefined
  readonly check?: string | undefined
}

/**
 * The parts of the running assistant.
 *
 * @since 0.1.0
 * @category tags
 */
export class Parts extends Context.Tag("@underlay/examples/assistant/Parts")<Parts, ReadonlyArray<Part>>() {}

/**
 * A part that was asked for cannot be used. The message says which setting asked for it and what to do.
 *
 * @since 0.1.0
 * @category errors
 */
export class PartError extends Schema.TaggedError<PartError>()("PartError", {
  part: Schema.String,
  description: Schema.String,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return this.description
  }
}

/**
 * Several parts that cannot be used as one error; a single one stays as it is.
 *
 * @since 0.1.0
 * @category constructors
 */
export const together = (errors: ReadonlyArray<PartError>): PartError =>
  errors.length === 1 && errors[0] !== undefined
    ? errors[0]
    : new PartError({
        part: errors.map((error) => error.part).join(", "),
        description: `${errors.length} parts cannot be used:\n${errors.map((error) => `  - ${error.message}`).join("\n")}`
      })

/**
 * A part and the layer that provides it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Chosen<ROut, RIn = never> {
  readonly part: Part
  readonly layer: Layer.Layer<ROut, PartError, RIn>
}

const addressOf = (url: string, port: string): string => {
  const parsed = new URL(url)
  const socket = parsed.searchParams.get("host")
  if (parsed.hostname === "" && socket !== null) return `${socket}${parsed.pathname}`
  return `${parsed.hostname}:${parsed.port === "" ? port : parsed.port}${parsed.pathname === "/" ? "" : parsed.pathname}`
}

/**
 * Sessions and conversations: Redis if one is named, else the memory of this process.
 *
 * @since 0.1.0
 * @category constructors
 */
export const sessions = (
  settings: AppSettings
): Chosen<SessionStore.SessionStore | ConversationMemory.ConversationMemory> => {
  const ttl = settings.sessions.ttl
  if (Option.isNone(settings.redis)) {
    return {
      part: {
        name: "sessions",
        mode: "embedded",
        what: "memory of this process",
        switch: "REDIS_URL=redis://localhost:6379"
      },
      layer: Layer.merge(SessionStore.layerMemory({ defaultTtl: ttl }), ConversationMemory.layerMemory({ ttl })).pipe(
        Layer.mapError(failedBuild("sessions", "The sessions cannot be kept in memory"))
      )
    }
  }
  const redis = settings.redis.value
  const address = `${redis.host}:${redis.port}${redis.db === 0 ? "" : `/${redis.db}`}`
  const client = Layer.scoped(RedisClient.RedisClient, RedisClient.make(redis, { connect: "eager" })).pipe(
    Layer.mapError(
      failedBuild(
        "sessions",
        `REDIS_URL asks for sessions in Redis at ${address}, which cannot be used. Start it, correct REDIS_URL, or unset it to keep sessions in memory`
      )
    )
  )
  return {
    part: { name: "sessions", mode: "real", what: "Redis", address, check: "redis" },
    layer: Layer.mergeAll(
      RedisSessionStore.layer({ defaultTtl: ttl }),
      RedisConversationMemory.layer({ ttl }),
      RedisHealth.layer
    ).pipe(Layer.mapError(failedBuild("sessions", "The sessions cannot be kept in Redis")), Layer.provide(client))
  }
}

const failedBuild =
  (part: Part["name"], description: string) =>
  (cause: Error): PartError =>
    new PartError({ part, description: `${description}: ${cause.message}`, cause })

/**
 * The index of the runbooks: pgvector on the PostgreSQL that is named, else on PGlite in this process.
 *
 * @since 0.1.0
 * @category constructors
 */
export const search = (settings: AppSettings): Chosen<VectorStore.VectorStore> => {
  if (Option.isNone(settings.databaseUrl)) {
    return {
      part: {
        name: "search",
        mode: "embedded",
        what: "PGlite with pgvector, in this process",
        switch: "DATABASE_URL=postgres://user:password@localhost:5432/database",
        check: "pglite"
      },
      layer: PgVector.layerSql().pipe(
        Layer.provide(PGlite.layer()),
        Layer.mapError(failedBuild("search", "The embedded database cannot be started"))
      )
    }
  }
  const url = settings.databaseUrl.value
  const address = addressOf(Redacted.value(url), "5432")
  return {
    part: { name: "search", mode: "real", what: "PostgreSQL with pgvector", address, check: "postgres" },
    layer: PgVector.layerSql().pipe(
      Layer.mapError(
        failedBuild(
          "search",
          `The PostgreSQL at ${address} (DATABASE_URL) cannot hold the index. Unset DATABASE_URL to use the embedded database, or`
        )
      ),
      Layer.provide(
        Postgres.layer({ url, applicationName: "underlay-assistant", maxConnections: 4 }).pipe(
          Layer.mapError(
            failedBuild(
              "search",
              `DATABASE_URL asks for the PostgreSQL at ${address}, which cannot be used. Start it, correct DATABASE_URL, or unset it to use the embedded database`
            )
          )
        )
      )
    )
  }
}

/**
 * The embedder: always in this process, at present.
 *
 * @since 0.1.0
 * @category constructors
 */
export const embeddings = (settings: AppSettings): Chosen<Embeddings.Embeddings> => ({
  part: {
    name: "embeddings",
    mode: "embedded",
    what: `feature hashing, ${settings.vector.dimensions} dimensions, in this process`
  },
  layer: Embeddings.layerLocal({ dimensions: settings.vector.dimensions })
})

/**
 * The table that the assistant prints when it starts: each part, whether it is embedded or real, and how to switch it.
 *
 * @since 0.1.0
 * @category combinators
 */
export const table = (parts: ReadonlyArray<Part>): ReadonlyArray<string> => {
  const wide = Math.max(...parts.map((part) => part.name.length))
  return parts.map((part) => {
    const what = part.address === undefined ? part.what : `${part.what} at ${part.address}`
    const how = part.switch === undefined ? "" : `  (real one: ${part.switch})`
    return `  ${part.name.padEnd(wide)}  ${part.mode.padEnd(8)}  ${what}${how}`
  })
}
