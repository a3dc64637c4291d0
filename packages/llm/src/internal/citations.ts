/**
 * What the providers say of their sources, each in its own words, as sources. Kinds that are not known and citations that
 * name nothing are none.
 */
import type { DocumentSource, LlmSource, UrlSource } from "../LlmResponse.ts"
import { isRecord } from "./classify.ts"
import type { Span } from "./sources.ts"
import { count, type Json, said, string } from "./wire.ts"

/** A source, with the place to which it belongs if that was said. */
export interface Citation {
  readonly source: LlmSource
  readonly span: Span | undefined
}

const list = (value: unknown): ReadonlyArray<Json> => (Array.isArray(value) ? value.filter(isRecord) : [])

type Fields<Source> = {
  readonly [Name in Exclude<keyof Source, "type" | "sourceType" | "start" | "end">]?: Source[Name] | undefined
}

const page = ({ url, ...fields }: Fields<UrlSource>): UrlSource | undefined =>
  url === undefined ? undefined : { type: "source", sourceType: "url", url, ...said(fields) }

const document = (fields: Fields<DocumentSource>): DocumentSource | undefined =>
  fields.id === undefined && fields.index === undefined && fields.title === undefined
    ? undefined
    : { type: "source", sourceType: "document", ...said(fields) }

const isPage = (name: string): boolean => /^https?:\/\//i.test(name)

/** What is named by an address or else by a name of the provider's own. */
const named = (
  name: string | undefined,
  fields: { readonly title: string | undefined; readonly quote: string | undefined }
): LlmSource | undefined =>
  name !== undefined && isPage(name) ? page({ url: name, ...fields }) : document({ id: name, ...fields })

// ---------------------------------------------------------------------------------------------------------------------
// OpenAI, and those who speak as it does
// ---------------------------------------------------------------------------------------------------------------------

/**
 * An annotation of Responses or of Chat Completions, which has what it says in a field of the annotation's name. A file's
 * `index` is no place: it is said to count the files, and does not.
 */
export const ofAnnotation = (value: unknown, base?: number): Citation | undefined => {
  if (!isRecord(value)) return undefined
  const type = string(value["type"])
  const inner = type === undefined ? undefined : value[type]
  const body = isRecord(inner) ? inner : value
  const source = sourceOfAnnotation(type, body)
  if (source === undefined) return undefined
  const { end_index: end, start_index: start } = body
  const isPlaced = base !== undefined && start !== undefined && end !== undefined
  return { source, span: isPlaced ? { start, end, base, unit: "characters" } : undefined }
}

const sourceOfAnnotation = (type: string | undefined, body: Json): LlmSource | undefined => {
  switch (type) {
    case "url_citation":
      return page({ url: string(body["url"]), title: string(body["title"]), quote: string(body["content"]) })
    case "file_citation":
    case "container_file_citation":
    case "file_path": {
      const id = string(body["file_id"])
      const containerId = string(body["container_id"])
      return id === undefined ? undefined : document({ id, containerId, title: string(body["filename"]) })
    }
    case "document_citation": {
      const id = string(body["document_id"])
      return id === undefined ? undefined : document({ id })
    }
    default:
      return undefined
  }
}

const pagesIn = (value: unknown): ReadonlyArray<UrlSource> =>
  list(value).flatMap((result) => {
    const quote = string(result["snippet"]) ?? string(result["content"])
    const source = page({ url: string(result["url"]), title: string(result["title"]), quote })
    return source === undefined ? [] : [source]
  })

/** What a message of Chat Completions, or a piece of one, says: OpenAI's annotations and what Groq's systems searched. */
export const inMessage = (message: Json, tell: (source: LlmSource, span?: Span) => void): void => {
  const { annotations, executed_tools: tools } = message
  if (Array.isArray(annotations)) {
    for (const annotation of annotations) {
      const citation = ofAnnotation(annotation, 0)
      if (citation !== undefined) tell(citation.source, citation.span)
    }
  }
  if (!Array.isArray(tools)) return
  for (const tool of list(tools)) {
    const { browser_results: visited, search_results: found } = tool
    for (const source of pagesIn(isRecord(found) ? found["results"] : undefined)) tell(source)
    // Of a page that was visited the content is all that is on it, which is no quote.
    for (const { quote: _, ...source } of pagesIn(visited)) tell(source)
  }
}

/**
 * What stands beside the choices: Perplexity's `search_results`, and its and xAI's `citations`, which are the addresses
 * alone.
 */
export const besideChoices = (body: Json, tell: (source: LlmSource) => void): void => {
  const { citations, search_results: results } = body
  if (results !== undefined) for (const source of pagesIn(results)) tell(source)
  if (!Array.isArray(citations)) return
  for (const citation of citations) {
    const url = string(citation)
    if (url !== undefined && isPage(url)) tell({ type: "source", sourceType: "url", url })
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Anthropic
// ---------------------------------------------------------------------------------------------------------------------

/** A citation of a block of text. */
export const ofTextBlock = (citation: unknown): LlmSource | undefined => {
  if (!isRecord(citation)) return undefined
  const title = string(citation["document_title"]) ?? string(citation["title"])
  const quote = string(citation["cited_text"])
  switch (citation["type"]) {
    case "char_location":
    case "page_location":
    case "content_block_location":
      return document({ id: string(citation["file_id"]), index: count(citation["document_index"]), title, quote })
    case "web_search_result_location":
      return page({ url: string(citation["url"]), title, quote })
    case "search_result_location":
      return named(string(citation["source"]), { title, quote })
    default:
      return undefined
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Google
// ---------------------------------------------------------------------------------------------------------------------

const ofChunk = (chunk: Json): LlmSource | undefined => {
  const { image, maps, retrievedContext, web } = chunk
  if (isRecord(web)) return page({ url: string(web["uri"]), title: string(web["title"]) })
  if (isRecord(retrievedContext)) {
    const uri = string(retrievedContext["uri"])
    const name = uri !== undefined && isPage(uri) ? uri : (string(retrievedContext["documentName"]) ?? uri)
    return named(name, { title: string(retrievedContext["title"]), quote: string(retrievedContext["text"]) })
  }
  if (isRecord(maps)) return page({ url: string(maps["uri"]), title: string(maps["title"]) })
  if (!isRecord(image)) return undefined
  return page({ url: string(image["sourceUri"]) ?? string(image["imageUri"]), title: string(image["title"]) })
}

interface Grounded {
  readonly source: LlmSource
  /** By what was said of them. */
  readonly spans: Map<string, Span>
}

// Of the parts of an answer, those where a segment is looked for.
const maxBases = 8

/**
 * What Google says of its sources, which it says again and more of with later pieces of a stream. Kept until the answer is
 * whole: only then is it known which are cited, and where.
 */
export class Grounding {
  private readonly grounded = new Map<string, Grounded>()
  private chunks: ReadonlyArray<Grounded | undefined> = []

  /** `bases` are where the text of each part begins, if the candidate has the whole text. */
  add(candidate: Json, bases: ReadonlyArray<number>): void {
    const { citationMetadata, groundingMetadata } = candidate
    if (isRecord(groundingMetadata)) this.addGrounding(groundingMetadata, bases)
    if (!isRecord(citationMetadata)) return
    for (const citation of list(citationMetadata["citationSources"] ?? citationMetadata["citations"])) {
      const source = named(string(citation["uri"]), { title: string(citation["title"]), quote: undefined })
      if (source !== undefined) this.place(this.known(source), citation, bases)
    }
  }

  private addGrounding(metadata: Json, bases: ReadonlyArray<number>): void {
    const { groundingChunks: chunks, groundingSupports } = metadata
    if (Array.isArray(chunks) && chunks.length > 0) {
      this.chunks = chunks.map((chunk: unknown) => {
        const source = isRecord(chunk) ? ofChunk(chunk) : undefined
        return source === undefined ? undefined : this.known(source)
      })
    }
    for (const { groundingChunkIndices: indices, segment } of list(groundingSupports)) {
      if (!Array.isArray(indices) || !isRecord(segment)) continue
      for (const index of indices) {
        const grounded = this.chunks[count(index) ?? -1]
        if (grounded !== undefined) this.place(grounded, segment, bases)
      }
    }
  }

  private known(source: LlmSource): Grounded {
    const key = JSON.stringify(source)
    const before = this.grounded.get(key)
    if (before !== undefined) return before
    const grounded: Grounded = { source, spans: new Map() }
    this.grounded.set(key, grounded)
    return grounded
  }

  private place(grounded: Grounded, segment: Json, bases: ReadonlyArray<number>): void {
    const { endIndex: end, partIndex, startIndex } = segment
    if (end === undefined) return
    const key = JSON.stringify([startIndex, end, partIndex])
    if (grounded.spans.has(key)) return
    const base = bases[count(partIndex) ?? 0] ?? 0
    // What is 0 is left out. The index of the part is often that of another one.
    const others = base === 0 ? bases.slice(0, maxBases) : [0, ...bases.slice(0, maxBases)]
    const words = string(segment["text"])
    grounded.spans.set(key, { start: startIndex ?? 0, end, base, others, words, unit: "bytes" })
  }

  tell(tell: (source: LlmSource, span?: Span) => void): void {
    for (const { source, spans } of this.grounded.values()) {
      if (spans.size === 0) tell(source)
      for (const span of spans.values()) tell(source, span)
    }
  }
}
