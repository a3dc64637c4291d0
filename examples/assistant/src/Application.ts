/**
 * The assistant put together: settings decide the parts, the parts become layers, the layers become the service or one
 * answer on the terminal.
 *
 * @since 0.1.0
 */
import type { FileSystem, HttpClient, Path } from "@effect/platform"
import { Health, type VectorStore } from "@underlay/core"
import { Effect, Layer } from "effect"
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
  Layer.unwrapEffect(
    Effect.map(Models.choose(settings), (answers) => {
      const sessions = Parts.sessions(settings)
      const search = options.search ?? Parts.search(settings)
      const embeddings = Parts.embeddings(settings)
      const parts = Layer.succeed(Parts.Parts, [sessions.part, search.part, embeddings.part, answers.part])
      const index = Search.layer.pipe(Layer.provide([search.layer, embeddings.layer]))
      return Assistant.layer(options.assistant).pipe(
        Layer.provideMerge(index),
        Layer.provideMerge(Layer.mergeAll(parts, Runbooks.layer(options.runbooks))),
        Layer.provide([sessions.layer, answers.layer]),
        Layer.provideMerge(Health.layer)
      )
    })
  )
