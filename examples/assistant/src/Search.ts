/**
 * Search over the runbooks: the vector store's nearest sections and keyword ranking, fused by reciprocal rank and
 * gathered by runbook.
 *
 * @since 0.1.0
 */
import { Embeddings, VectorStore } from "@underlay/core"
import { Array as Arr, Context, Effect, Hash, Layer, Schema, Stream } from "effect"
import * as Evidence from "./Evidence.ts"
import * as Ranking from "./Ranking.ts"
import { type Purpose, type Runbook, Runbooks, type Section } from "./Runbooks.ts"

/**
 * A section that answers the question, and how well (0 to 1, 1 for the best of this search).
 *
 * @since 0.1.0
 * @category models
 */
export interface Hit {
  readonly section: Section
  readonly score: number
}

/**
 * A runbook that answers the question: its score (0 to 1, 1 for the best possible) and its sections, best first.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunbookHit {
  readonly runbook: Runbook
  readonly score: number
  readonly sections: ReadonlyArray<Hit>
}

/**
 * What a search found, and whether the first runbook is about the question or only the nearest that there is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Found {
  readonly runbooks: ReadonlyArray<RunbookHit>
  /** Runbooks that another part of the question is about, where it names two things at once. */
  readonly also: ReadonlyArray<RunbookHit>
  readonly evidence: Evidence.Evidence
}

/**
 * The search could not be made: the vector store or the embedder failed.
 *
 * @since 0.1.0
 * @category errors
 */
export class SearchError extends Schema.TaggedError<SearchError>()("SearchError", {
  description: Schema.String,
  isRetryable: Schema.Boolean,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return `Search: ${this.description}`
  }
}

/**
 * Search over the runbooks.
 *
 * @since 0.1.0
 * @category tags
 */
export class Search extends Context.Tag("@underlay/examples/assistant/Search")<
  Search,
  {
    /** The runbooks for a question, best first. A question in which no word is known finds nothing. */
    readonly search: (question: string) => Effect.Effect<Found, SearchError>
    /** The sections of one runbook, those of `purpose` first, then by how well they answer the question. */
    readonly within: (runbook: Runbook, question: string, purpose?: Purpose | undefined) => ReadonlyArray<Hit>
    /** Whether a word of the text names something that the runbooks speak of. */
    readonly recognise: Ranking.Index["recognise"]
    /** The embedder's model and how many sections are in the index. */
    readonly index: { readonly model: string; readonly sections: number; readonly written: number }
  }
>() {}

const fuseAt = 10
/** What each of the four lists counts: keywords over whole runbooks, over titles and symptoms, over sections; vectors. */
const weights = { runbook: 1, topic: 1, section: 0.5, vector: 0.6 }
const allWeights = weights.runbook + weights.topic + weights.section + weights.vector
const limit = 24

const failed = (error: VectorStore.VectorStoreError | Embeddings.EmbeddingsError): SearchError =>
  new SearchError({ description: error.message, isRetryable: error.isRetryable, cause: error })

const purposeWeight: Record<Purpose, number> = {
  symptoms: 1.5,
  overview: 1.4,
  causes: 1.2,
  diagnose: 0.8,
  fix: 0.7,
  prevent: 0.6,
  escalate: 0.5,
  other: 0.7
}

const embeddedText = (section: Section): string => `${section.title}\n${section.heading}\n${section.text}`

const fingerprint = (text: string): string => `${text.length}-${Hash.string(text)}`

/** Puts into the collection what is not there yet or has changed, takes out what is no longer, in batches. */
const synchronise = (
  store: Context.Tag.Service<typeof VectorStore.VectorStore>,
  embeddings: Context.Tag.Service<typeof Embeddings.Embeddings>,
  collection: string,
  sections: ReadonlyArray<Section>
): Effect.Effect<number, VectorStore.VectorStoreError | Embeddings.EmbeddingsError> =>
  Effect.gen(function* () {
    yield* store.ensureCollection(collection, { dimensions: embeddings.dimensions, metric: "cosine" })
    const wanted = new Map(sections.map((section) => [section.id, fingerprint(embeddedText(section))]))
    const present = new Set<string>()
    const stale: Array<string> = []
    yield* store.scroll(collection).pipe(
      Stream.runForEach((record) =>
        Effect.sync(() => {
          if (!wanted.has(record.id)) stale.push(record.id)
          else if (record.metadata["fingerprint"] === wanted.get(record.id)) present.add(record.id)
        })
      )
    )
    const missing = sections.filter((section) => !present.has(section.id))
    for (const batch of Arr.chunksOf(missing, 64)) {
      const vectors = yield* embeddings.embedMany(batch.map(embeddedText))
      yield* store.upsert(
        collection,
        batch.map((section, i) => ({
          id: section.id,
          vector: vectors[i] ?? [],
          metadata: { runbook: section.runbook, purpose: section.purpose, fingerprint: wanted.get(section.id) ?? "" }
        }))
      )
    }
    if (stale.length > 0) yield* store.delete(collection, stale)
    return missing.length
  })

/**
 * Builds the index and the search. What a persistent store already holds unchanged is not embedded again.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<
  Context.Tag.Service<Search>,
  SearchError,
  Runbooks | VectorStore.VectorStore | Embeddings.Embeddings
> = Effect.gen(function* () {
  const runbooks = yield* Runbooks
  const store = yield* VectorStore.VectorStore
  const embeddings = yield* Embeddings.Embeddings
  const collection = `runbooks.${embeddings.model.toLowerCase().replaceAll(/[^a-z0-9._-]/g, "-")}`
  const written = yield* synchronise(store, embeddings, collection, runbooks.sections).pipe(Effect.mapError(failed))

  const byRunbook = Ranking.make(
    runbooks.all.map((runbook) => ({
      id: runbook.id,
      fields: [
        { text: runbook.title, weight: 4 },
        { text: runbook.tags.join(" "), weight: 3 },
        { text: runbook.service, weight: 2 },
        ...runbook.sections.map((section) => ({ text: section.text, weight: purposeWeight[section.purpose] }))
      ]
    })),
    { saturation: 6 }
  )
  const byTopic = Ranking.make(
    runbooks.all.map((runbook) => ({
      id: runbook.id,
      fields: [
        { text: runbook.title, weight: 2 },
        { text: runbook.tags.join(" "), weight: 1.5 },
        { text: runbook.service, weight: 1 },
        ...runbook.sections
          .filter((section) => section.purpose === "overview" || section.purpose === "symptoms")
          .map((section) => ({ text: section.text, weight: 0.5 }))
      ]
    })),
    { saturation: 2 }
  )
  const bySection = Ranking.make(
    runbooks.sections.map((section) => ({
      id: section.id,
      fields: [
        { text: section.title, weight: 1 },
        { text: section.heading, weight: 1 },
        { text: section.text, weight: 1 }
      ]
    }))
  )

  const judge = Evidence.make(runbooks.all, byRunbook.recognise)

  /** What the parts of a question are about when they are surely about something else than the whole. */
  const otherTopics = (question: string, best: Runbook): ReadonlySet<string> => {
    const parts = question.split(/[.;!?\n]+|,?\s(?:and|also|plus)\s/i)
    if (parts.length < 2) return new Set()
    return new Set(
      parts.flatMap((part) => {
        if (byRunbook.recognise(part).filter(({ certainty }) => certainty > 0).length < 2) return []
        const other = runbooks.runbook(byTopic.rank(part).ranked[0]?.id ?? "")
        if (other === undefined || other.id === best.id) return []
        return judge(part, other).judgement === "sure" && judge(part, best).judgement !== "sure" ? [other.id] : []
      })
    )
  }

  const within = (runbook: Runbook, question: string, purpose?: Purpose | undefined): ReadonlyArray<Hit> => {
    const scores = new Map(bySection.rank(question).ranked.map((ranked) => [ranked.id, ranked.score]))
    const most = Math.max(1e-9, ...runbook.sections.map((section) => scores.get(section.id) ?? 0))
    return runbook.sections
      .map((section) => ({
        section,
        score: section.purpose === purpose ? 1 : 0.9 * ((scores.get(section.id) ?? 0) / most)
      }))
      .sort((x, y) => y.score - x.score)
  }

  const search = (question: string): Effect.Effect<Found, SearchError> =>
    Effect.gen(function* () {
      const keywords = byRunbook.rank(question)
      if (keywords.known === 0) return { runbooks: [], also: [], evidence: judge(question, undefined) }
      const vector = yield* embeddings.embed(question)
      const matches = yield* store.query(collection, { vector, limit: Math.min(limit, runbooks.sections.length) })
      // Each list gives a runbook the place of its best section.
      const nearest = Array.from(new Set(matches.flatMap((match) => runbooks.section(match.id)?.runbook ?? [])))
      const sections = bySection.rank(question).ranked
      const bestSections = Array.from(new Set(sections.flatMap((one) => runbooks.section(one.id)?.runbook ?? [])))
      const scores = new Map<string, number>()
      const points = (list: ReadonlyArray<string>, weight: number) => {
        list.forEach((id, place) => {
          scores.set(id, (scores.get(id) ?? 0) + (weight * fuseAt) / (fuseAt + place))
        })
      }
      points(
        keywords.ranked.map((one) => one.id),
        weights.runbook
      )
      points(
        byTopic.rank(question).ranked.map((one) => one.id),
        weights.topic
      )
      points(bestSections, weights.section)
      points(nearest, weights.vector)
      const found = Array.from(scores, ([id, score]) => ({ id, score: score / allWeights }))
        .sort((x, y) => y.score - x.score || (x.id < y.id ? -1 : 1))
        .flatMap(({ id, score }) => {
          const runbook = runbooks.runbook(id)
          return runbook === undefined ? [] : [{ runbook, score, sections: within(runbook, question) }]
        })
      const best = found[0]?.runbook
      const elsewhere = best === undefined ? new Set<string>() : otherTopics(question, best)
      return {
        runbooks: found,
        also: found.filter((hit) => elsewhere.has(hit.runbook.id)),
        evidence: judge(question, best)
      }
    }).pipe(Effect.mapError(failed))

  return {
    search,
    within,
    recognise: byRunbook.recognise,
    index: { model: embeddings.model, sections: runbooks.sections.length, written }
  }
})

/**
 * The search of this service.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Search, SearchError, Runbooks | VectorStore.VectorStore | Embeddings.Embeddings> =
  Layer.effect(Search, make)
