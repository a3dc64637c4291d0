/**
 * The assistant put together: settings decide the parts, the parts become layers, the layers become the service or one
 * answer on the terminal.
 *
 * @since 0.1.0
 */
import type { FileSystem, HttpClient, Path } from "@effect/platform"
import { type ConversationMemory, Health, type SessionStore, type VectorStore } from "@underlay/core"
import { Context, Effect, Either, Layer, Option } from "effect"
import type { Answerer } from "./Answerer.ts"
import type { AppSettings } from "./AppSettings.ts"
import * as Assistant from "./Assistant.ts"
import * as Models from "./Models.ts"
import * as Parts from "./Parts.ts"
import * as Runbooks from "./Runbooks.ts"
import * as Search from "./Search.ts"

/**
 * Where the runbooks are; limits of the assistant; and an index to use instead of the one that the settings name, as tests
 * do that share one.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  readonly runbooks: string
  readonly assistant?: Assistant.Options | undefined
  readonly search?: Parts.Chosen<VectorStore.VectorStore> | undefined
}

/**
 * Everything behind the API: what the settings ask for, the index of the runbooks, the assistant.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  settings: AppSettings,
  options: Options
): Layer.Layer<
  Assistant.Assistant | Health.Health | Parts.Parts | Runbooks.Runbooks | Search.Search,
  Parts.PartError | Runbooks.RunbookError | Search.SearchError,
  FileSystem.FileSystem | Path.Path | HttpClient.HttpClient
> =>
  Layer.suspend(() => {
    const embeddings = Parts.embeddings(settings)
    return Assistant.layer(options.assistant).pipe(
      Layer.provideMerge(Search.layer),
      Layer.provideMerge(Runbooks.layer(options.runbooks)),
      Layer.provideMerge(
        Layer.merge(chosen(settings, options.search ?? Parts.search(settings), embeddings.part), embeddings.layer)
      ),
      Layer.provideMerge(Health.layer)
    )
  })

/** A model that is away makes the service degraded, not unready: the local answerer takes over. */
const notCritical = (health: Health.Health["Type"]): Health.Health["Type"] => ({
  ...health,
  register: (check) => health.register({ ...check, critical: false })
})

/** The parts that may be elsewhere, built at once: whoever starts the service hears of all that cannot be used. */
const chosen = (
  settings: AppSettings,
  search: Parts.Chosen<VectorStore.VectorStore>,
  embeddings: Parts.Part
): Layer.Layer<
  SessionStore.SessionStore | ConversationMemory.ConversationMemory | VectorStore.VectorStore | Answerer | Parts.Parts,
  Parts.PartError,
  HttpClient.HttpClient | Health.Health
> =>
  Layer.scopedContext(
    Effect.gen(function* () {
      const sessions = Parts.sessions(settings)
      const [first, second, third] = yield* Effect.all(
        [
          Layer.build(sessions.layer),
          Layer.build(search.layer),
          Effect.flatMap(Models.choose(settings), ({ layer, part }) =>
            Effect.map(Layer.build(layer), (context) => ({ context, part }))
          ).pipe(Effect.updateService(Health.Health, notCritical))
        ],
        { concurrency: "unbounded", mode: "either" }
      )
      if (Either.isRight(first) && Either.isRight(second) && Either.isRight(third)) {
        return Context.mergeAll(
          first.right,
          second.right,
          third.right.context,
          Context.make(Parts.Parts, [sessions.part, search.part, embeddings, third.right.part])
        )
      }
      const failed = [Either.getLeft(first), Either.getLeft(second), Either.getLeft(third)]
      return yield* Parts.together(failed.flatMap(Option.toArray))
    })
  )
