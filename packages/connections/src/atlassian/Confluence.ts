/**
 * Confluence Cloud (REST API v2, and v1 for what v2 does not have: search by CQL, uploads, labels) as a connection. Lists
 * are streams that ask for the next page when it is wanted.
 *
 * @since 0.1.0
 */
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import {
  type Connection,
  ConnectionError,
  configOfSchema,
  type Kind,
  kindOf
} from "@underlay/core/connection/Connection"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Calls from "../internal/atlassian/calls.ts"
import {
  Flag,
  get,
  Id,
  type Parameters,
  read,
  segment,
  Text,
  Whole,
  withJson,
  withQuery,
  write
} from "../internal/atlassian/calls.ts"
import * as Query from "../internal/atlassian/query.ts"
import { type SiteSettings, siteFields } from "../internal/atlassian/settings.ts"
import * as Site from "../internal/atlassian/site.ts"

const kindName = "confluence"

/**
 * @since 0.1.0
 * @category models
 */
export interface ConfluenceSettings extends SiteSettings {
  /** The address of the site: `https://your-domain.atlassian.net`, with or without `/wiki`. Either this or `cloudId`. */
  readonly url?: URL | string | undefined
}

const OptionalId = Schema.optionalWith(Id, { nullable: true, exact: true })

/**
 * @since 0.1.0
 * @category schemas
 */
export const Version = Schema.Struct({
  number: Schema.Number,
  message: Text,
  createdAt: Text,
  authorId: Text,
  minorEdit: Flag
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Version extends Schema.Schema.Type<typeof Version> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Space = Schema.Struct({
  id: Id,
  key: Text,
  name: Text,
  /** `global`, `personal`, … */
  type: Text,
  /** `current` or `archived`. */
  status: Text,
  homepageId: OptionalId,
  authorId: Text,
  createdAt: Text
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Space extends Schema.Schema.Type<typeof Space> {}

const BodyValue = Schema.optionalWith(Schema.Struct({ representation: Text, value: Text }), {
  nullable: true,
  exact: true
})

const Body = Schema.Struct({ storage: BodyValue, atlas_doc_format: BodyValue, view: BodyValue })

/**
 * A page. Its body is there in the format that was asked for, by the name of that.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Page = Schema.Struct({
  id: Id,
  title: Text,
  status: Text,
  spaceId: OptionalId,
  parentId: OptionalId,
  parentType: Text,
  position: Whole,
  authorId: Text,
  ownerId: Text,
  createdAt: Text,
  version: Schema.optionalWith(Version, { nullable: true, exact: true }),
  body: Schema.optionalWith(Body, { nullable: true, exact: true }),
  _links: Schema.optionalWith(Schema.Struct({ webui: Text, base: Text }), { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Page extends Schema.Schema.Type<typeof Page> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Label = Schema.Struct({ id: OptionalId, name: Text, prefix: Text })
/**
 * @since 0.1.0
 * @category models
 */
export interface Label extends Schema.Schema.Type<typeof Label> {}

/**
 * Data of programs at a page: any JSON under a key.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Property = Schema.Struct({
  id: Id,
  key: Schema.String,
  value: Schema.optionalWith(Schema.Unknown, { exact: true }),
  version: Schema.optionalWith(Version, { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Property extends Schema.Schema.Type<typeof Property> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Comment = Schema.Struct({
  id: Id,
  status: Text,
  title: Text,
  pageId: OptionalId,
  parentCommentId: OptionalId,
  version: Schema.optionalWith(Version, { nullable: true, exact: true }),
  body: Schema.optionalWith(Body, { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Comment extends Schema.Schema.Type<typeof Comment> {}

/**
 * A file at a page; `fileSize` in bytes.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Attachment = Schema.Struct({
  id: Id,
  title: Text,
  status: Text,
  pageId: OptionalId,
  mediaType: Text,
  comment: Text,
  fileId: Text,
  fileSize: Whole,
  downloadLink: Text,
  createdAt: Text,
  version: Schema.optionalWith(Version, { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Attachment extends Schema.Schema.Type<typeof Attachment> {}

/**
 * What a search found: content, a space or a user.
 *
 * @since 0.1.0
 * @category schemas
 */
export const SearchResult = Schema.Struct({
  content: Schema.optionalWith(Schema.Struct({ id: OptionalId, type: Text, status: Text, title: Text }), {
    nullable: true,
    exact: true
  }),
  title: Text,
  excerpt: Text,
  url: Text,
  entityType: Text,
  lastModified: Text,
  score: Whole
})
/**
 * @since 0.1.0
 * @category models
 */
export interface SearchResult extends Schema.Schema.Type<typeof SearchResult> {}

/**
 * `storage` is what `StorageFormat` reads, `atlas_doc_format` a document as JSON text, `view` HTML as it is shown.
 *
 * @since 0.1.0
 * @category models
 */
export type BodyFormat = "storage" | "atlas_doc_format" | "view"

/**
 * What is written: a text is storage format, which `StorageFormat.fromMarkdown` makes of Markdown.
 *
 * @since 0.1.0
 * @category models
 */
export type BodyInput =
  | string
  | { readonly representation: "storage" | "atlas_doc_format" | "wiki"; readonly value: string }

/**
 * @since 0.1.0
 * @category models
 */
export interface NewPage {
  readonly spaceId: string
  readonly title: string
  readonly body?: BodyInput | undefined
  /** The page above it; by default the home page of the space. */
  readonly parentId?: string | undefined
  readonly status?: "current" | "draft" | undefined
  /** Whether only who makes it may see it. */
  readonly private?: boolean | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface PageUpdate {
  readonly id: string
  readonly title: string
  readonly body: BodyInput
  /** The number of the version that is replaced: the one that was read. */
  readonly version: number
  /** What is said of the new version. */
  readonly message?: string | undefined
  readonly status?: "current" | "draft" | undefined
  readonly parentId?: string | undefined
}

/**
 * What `updateWith` changes; what is left out stays.
 *
 * @since 0.1.0
 * @category models
 */
export interface PageChange {
  readonly title?: string | undefined
  readonly body?: BodyInput | undefined
}

/**
 * A file to upload: bytes, or a stream of them. A stream is read once, as it is sent, and never sent again.
 *
 * @since 0.1.0
 * @category models
 */
export interface Upload extends Site.Upload {}

/**
 * @since 0.1.0
 * @category models
 */
export interface RequestOptions<A, I> extends Calls.RequestOptions<A, I> {}

/**
 * Confluence. Everything fails with `ConnectionError`: names of refused fields are in its description, what was in them is
 * not. Reads are tried again after what passes (429 and 503 when Confluence says, broken connections), writes never.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConfluenceClient {
  readonly spaces: (options?: {
    readonly keys?: ReadonlyArray<string> | undefined
    readonly ids?: ReadonlyArray<string> | undefined
    readonly type?: string | undefined
    readonly status?: "current" | "archived" | undefined
    readonly labels?: ReadonlyArray<string> | undefined
    readonly pageSize?: number | undefined
  }) => Stream.Stream<Space, ConnectionError>
  readonly getSpace: (id: string) => Effect.Effect<Space, ConnectionError>
  readonly findSpace: (key: string) => Effect.Effect<Option.Option<Space>, ConnectionError>
  readonly pages: (options?: {
    readonly spaceId?: string | undefined
    readonly title?: string | undefined
    readonly status?: ReadonlyArray<"current" | "archived" | "deleted" | "trashed"> | undefined
    readonly bodyFormat?: "storage" | "atlas_doc_format" | undefined
    readonly sort?:
      | "id"
      | "-id"
      | "title"
      | "-title"
      | "created-date"
      | "-created-date"
      | "modified-date"
      | "-modified-date"
      | undefined
    readonly pageSize?: number | undefined
  }) => Stream.Stream<Page, ConnectionError>
  readonly getPage: (
    id: string,
    options?: {
      readonly bodyFormat?: BodyFormat | undefined
      readonly version?: number | undefined
      readonly draft?: boolean | undefined
    }
  ) => Effect.Effect<Page, ConnectionError>
  /** The page of this title in a space, if there is one. */
  readonly findPage: (
    spaceId: string,
    title: string,
    options?: { readonly bodyFormat?: "storage" | "atlas_doc_format" | undefined }
  ) => Effect.Effect<Option.Option<Page>, ConnectionError>
  readonly createPage: (page: NewPage) => Effect.Effect<Page, ConnectionError>
  /** Replaces a page. `Conflict` where another version is current by now: `conflictVersion` tells which. */
  readonly updatePage: (page: PageUpdate) => Effect.Effect<Page, ConnectionError>
  /**
   * Reads a page with its body (`storage` by default), changes it and writes it; once more from the start where somebody
   * else was quicker, up to five times. `f` can run several times.
   */
  readonly updateWith: <E, R>(
    id: string,
    f: (page: Page) => Effect.Effect<PageChange, E, R>,
    options?: {
      readonly bodyFormat?: "storage" | "atlas_doc_format" | undefined
      readonly message?: string | undefined
      readonly attempts?: number | undefined
    }
  ) => Effect.Effect<Page, E | ConnectionError, R>
  /** To the trash; `purge` deletes for good what is there. */
  readonly deletePage: (
    id: string,
    options?: { readonly purge?: boolean | undefined; readonly draft?: boolean | undefined }
  ) => Effect.Effect<void, ConnectionError>
  readonly children: (id: string) => Stream.Stream<Page, ConnectionError>
  readonly labels: (pageId: string) => Stream.Stream<Label, ConnectionError>
  readonly addLabels: (pageId: string, names: ReadonlyArray<string>) => Effect.Effect<void, ConnectionError>
  readonly removeLabel: (pageId: string, name: string) => Effect.Effect<void, ConnectionError>
  readonly properties: (pageId: string) => Stream.Stream<Property, ConnectionError>
  readonly getProperty: (pageId: string, key: string) => Effect.Effect<Option.Option<Property>, ConnectionError>
  /** Makes it or replaces it. `Conflict` where somebody else did so meanwhile. */
  readonly setProperty: (pageId: string, key: string, value: unknown) => Effect.Effect<Property, ConnectionError>
  readonly deleteProperty: (pageId: string, propertyId: string) => Effect.Effect<void, ConnectionError>
  /** Comments below a page. */
  readonly comments: (
    pageId: string,
    options?: { readonly bodyFormat?: "storage" | "atlas_doc_format" | undefined }
  ) => Stream.Stream<Comment, ConnectionError>
  /** A comment below a page, or an answer to another. */
  readonly addComment: (
    to: { readonly pageId: string } | { readonly parentCommentId: string },
    body: BodyInput
  ) => Effect.Effect<Comment, ConnectionError>
  /** Replaces a comment; `version` is the number of the one that was read. */
  readonly updateComment: (comment: {
    readonly id: string
    readonly version: number
    readonly body: BodyInput
  }) => Effect.Effect<Comment, ConnectionError>
  readonly deleteComment: (id: string) => Effect.Effect<void, ConnectionError>
  readonly attachments: (
    pageId: string,
    options?: { readonly filename?: string | undefined; readonly mediaType?: string | undefined }
  ) => Stream.Stream<Attachment, ConnectionError>
  readonly getAttachment: (id: string) => Effect.Effect<Attachment, ConnectionError>
  /** Uploads files, as streams. A name that is there already is refused, or gets a new version with `replace`. */
  readonly addAttachments: (
    pageId: string,
    files: ReadonlyArray<Upload>,
    options?: {
      readonly replace?: boolean | undefined
      readonly comment?: string | undefined
      readonly minorEdit?: boolean | undefined
    }
  ) => Effect.Effect<ReadonlyArray<Attachment>, ConnectionError>
  /** The bytes of a file. The token is not sent to other hosts, to which Confluence may redirect. */
  readonly download: (attachmentId: string) => Stream.Stream<Uint8Array, ConnectionError>
  readonly deleteAttachment: (
    id: string,
    options?: { readonly purge?: boolean | undefined }
  ) => Effect.Effect<void, ConnectionError>
  /** All that a query finds, see `cql`. */
  readonly search: (
    cql: string,
    options?: {
      readonly pageSize?: number | undefined
      readonly excerpt?: "highlight" | "indexed" | "none" | undefined
    }
  ) => Stream.Stream<SearchResult, ConnectionError>
  /** Anything else: a request whose path begins with `/wiki/`, watched like all others under the name given. */
  readonly request: <A, I>(
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    options: RequestOptions<A, I>
  ) => Effect.Effect<A, ConnectionError>
}

/**
 * A connection to Confluence.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConfluenceConnection extends Connection<ConfluenceClient> {
  readonly client: ConfluenceClient
}

/**
 * @since 0.1.0
 * @category tags
 */
export class Confluence extends Context.Tag("@underlay/connections/Confluence")<Confluence, ConfluenceConnection>() {}

const v2 = "/wiki/api/v2"
const v1 = "/wiki/rest/api"

const bodyOf = (body: BodyInput) => (typeof body === "string" ? { representation: "storage", value: body } : body)

const listOf = <A, I>(item: Schema.Schema<A, I>) =>
  Schema.Struct({
    results: Schema.optionalWith(Schema.Array(item), { nullable: true, default: () => [] }),
    _links: Schema.optionalWith(Schema.Struct({ next: Text }), { nullable: true, exact: true })
  })

/** Where the next page begins: of the link that is given nothing else is used, so it leads to no other host. */
const nextOf = (link: string | undefined): string | undefined => {
  if (link === undefined || link === "" || !URL.canParse(link, "https://site")) return undefined
  const query = new URL(link, "https://site").searchParams
  const cursor = query.get("cursor")
  if (cursor !== null && cursor !== "") return `cursor=${cursor}`
  const start = query.get("start")
  return start === null || start === "" ? undefined : `start=${start}`
}

/** Uploads of version 1 answer in its own form. */
const Uploaded = Schema.Struct({
  results: Schema.optionalWith(
    Schema.Array(
      Schema.Struct({
        id: Id,
        title: Text,
        status: Text,
        version: Schema.optionalWith(Schema.Struct({ number: Schema.Number, message: Text }), {
          nullable: true,
          exact: true
        }),
        extensions: Schema.optionalWith(
          Schema.Struct({ mediaType: Text, fileSize: Whole, comment: Text, fileId: Text }),
          {
            nullable: true,
            exact: true
          }
        ),
        _links: Schema.optionalWith(Schema.Struct({ download: Text }), { nullable: true, exact: true })
      })
    ),
    { nullable: true, default: () => [] }
  )
})

const versionWords = "the current version is "

/**
 * The version that is current where `updatePage`, `updateComment` or `setProperty` failed with `Conflict`, if Confluence
 * told it.
 *
 * @since 0.1.0
 * @category errors
 */
export const conflictVersion = (error: ConnectionError): Option.Option<number> => {
  const at = error.reason === "Conflict" ? error.description.lastIndexOf(versionWords) : -1
  const number = at < 0 ? Number.NaN : Number.parseInt(error.description.slice(at + versionWords.length), 10)
  return Number.isNaN(number) ? Option.none() : Option.some(number)
}

const clientOf = (site: Site.Site): ConfluenceClient => {
  const { at } = site
  const { ask, invalid, named, namedStream, request } = Calls.make(site, { names: "id or name", root: "/wiki/" })
  const pagePath = (id: string): string => `${v2}/pages/${segment(id)}`

  const list = <A, I>(
    operation: string,
    path: string,
    item: Schema.Schema<A, I>,
    idOf: (item: A) => string | undefined,
    query: Parameters
  ): Stream.Stream<A, ConnectionError> =>
    Site.pages(at, operation, idOf, (from) => {
      const equals = from?.indexOf("=") ?? -1
      const place = from === undefined ? {} : { [from.slice(0, equals)]: from.slice(equals + 1) }
      return Effect.map(
        ask(operation, get(path, { ...query, ...place }), { ...read, schema: listOf(item) }),
        ({ _links, results }) => ({ items: results, next: nextOf(_links?.next) })
      )
    })

  const getPage: ConfluenceClient["getPage"] = (id, options) =>
    named("Confluence.getPage", [id], () =>
      ask(
        "Confluence.getPage",
        get(pagePath(id), {
          "body-format": options?.bodyFormat,
          version: options?.version,
          "get-draft": options?.draft
        }),
        { ...read, schema: Page }
      )
    )

  /** A conflict always tells the current version, as far as it can be had. */
  const toldVersion = <A>(
    effect: Effect.Effect<A, ConnectionError>,
    current: Effect.Effect<number | undefined, ConnectionError>
  ): Effect.Effect<A, ConnectionError> =>
    Effect.catchIf(
      effect,
      (error) => error.reason === "Conflict" && Option.isNone(conflictVersion(error)),
      (error) =>
        Effect.flatMap(
          Effect.orElseSucceed(current, () => undefined),
          (number) =>
            number === undefined
              ? error
              : new ConnectionError({
                  reason: error.reason,
                  kind: error.kind,
                  connection: error.connection,
                  method: error.method,
                  description: `${error.description}; ${versionWords}${number}`,
                  ...(error.code === undefined ? {} : { code: error.code })
                })
        )
    )

  const updatePage: ConfluenceClient["updatePage"] = (page) =>
    named("Confluence.updatePage", [page.id], () =>
      toldVersion(
        ask(
          "Confluence.updatePage",
          withJson(HttpClientRequest.put(pagePath(page.id)), {
            id: page.id,
            status: page.status ?? "current",
            title: page.title,
            body: bodyOf(page.body),
            version: { number: page.version + 1, ...(page.message === undefined ? {} : { message: page.message }) },
            ...(page.parentId === undefined ? {} : { parentId: page.parentId })
          }),
          { ...write, schema: Page }
        ),
        Effect.map(getPage(page.id), ({ version }) => version?.number)
      )
    )

  const findProperty = (pageId: string, key: string) =>
    Effect.map(
      ask("Confluence.getProperty", get(`${pagePath(pageId)}/properties`, { key, limit: 1 }), {
        ...read,
        schema: listOf(Property)
      }),
      ({ results }) => Option.fromNullable(results.find((one) => one.key === key))
    )

  const getAttachment: ConfluenceClient["getAttachment"] = (id) =>
    named("Confluence.getAttachment", [id], () =>
      ask("Confluence.getAttachment", get(`${v2}/attachments/${segment(id)}`), { ...read, schema: Attachment })
    )

  const spaces: ConfluenceClient["spaces"] = (options) =>
    list("Confluence.spaces", `${v2}/spaces`, Space, ({ id }) => id, {
      keys: options?.keys,
      ids: options?.ids,
      type: options?.type,
      status: options?.status,
      labels: options?.labels,
      limit: options?.pageSize ?? 100
    })

  const pages: ConfluenceClient["pages"] = (options) =>
    list("Confluence.pages", `${v2}/pages`, Page, ({ id }) => id, {
      "space-id": options?.spaceId,
      title: options?.title,
      status: options?.status,
      "body-format": options?.bodyFormat,
      sort: options?.sort,
      limit: options?.pageSize ?? 100
    })

  return {
    spaces,
    getSpace: (id) =>
      named("Confluence.getSpace", [id], () =>
        ask("Confluence.getSpace", get(`${v2}/spaces/${segment(id)}`), { ...read, schema: Space })
      ),
    findSpace: (key) =>
      Stream.runHead(Stream.filter(spaces({ keys: [key], pageSize: 1 }), (space) => space.key === key)),
    pages,
    getPage,
    findPage: (spaceId, title, options) =>
      spaceId === "" || title === ""
        ? invalid("Confluence.findPage", "the id of the space or the title is empty: any page would do")
        : Stream.runHead(pages({ spaceId, title, bodyFormat: options?.bodyFormat, pageSize: 1 })),
    createPage: (page) =>
      ask(
        "Confluence.createPage",
        withQuery(
          withJson(HttpClientRequest.post(`${v2}/pages`), {
            spaceId: page.spaceId,
            status: page.status ?? "current",
            title: page.title,
            ...(page.parentId === undefined ? {} : { parentId: page.parentId }),
            body: bodyOf(page.body ?? "")
          }),
          { private: page.private }
        ),
        { ...write, schema: Page }
      ),
    updatePage,
    updateWith: (id, f, options) =>
      Effect.gen(function* () {
        const attempts = Math.max(1, options?.attempts ?? 5)
        for (let attempt = 1; ; attempt++) {
          const bodyFormat = options?.bodyFormat ?? "storage"
          const page = yield* getPage(id, { bodyFormat })
          const change = yield* f(page)
          const before = page.body?.[bodyFormat]?.value
          if (page.version === undefined || (change.body === undefined && before === undefined)) {
            return yield* Site.failure(at, "Unknown", "Confluence.updateWith", "the page came without version or body")
          }
          const written = yield* Effect.either(
            updatePage({
              id,
              title: change.title ?? page.title ?? "",
              body: change.body ?? { representation: bodyFormat, value: before ?? "" },
              version: page.version.number,
              message: options?.message,
              ...(page.status === "draft" ? { status: "draft" as const } : {})
            })
          )
          if (written._tag === "Right") return written.right
          if (written.left.reason !== "Conflict" || attempt >= attempts) return yield* written.left
        }
      }),
    deletePage: (id, options) =>
      named("Confluence.deletePage", [id], () =>
        ask(
          "Confluence.deletePage",
          withQuery(HttpClientRequest.del(pagePath(id)), { purge: options?.purge, draft: options?.draft }),
          write
        )
      ),
    children: (id) =>
      namedStream("Confluence.children", [id], () =>
        list("Confluence.children", `${pagePath(id)}/children`, Page, (page) => page.id, { limit: 100 })
      ),
    labels: (id) =>
      namedStream("Confluence.labels", [id], () =>
        list("Confluence.labels", `${pagePath(id)}/labels`, Label, (label) => label.id ?? label.name, { limit: 100 })
      ),
    addLabels: (id, names) =>
      named("Confluence.addLabels", [id, ...names], () =>
        names.length === 0
          ? Effect.void
          : ask(
              "Confluence.addLabels",
              withJson(
                HttpClientRequest.post(`${v1}/content/${segment(id)}/label`),
                names.map((name) => ({ prefix: "global", name }))
              ),
              write
            )
      ),
    removeLabel: (id, name) =>
      named("Confluence.removeLabel", [id, name], () =>
        ask(
          "Confluence.removeLabel",
          withQuery(HttpClientRequest.del(`${v1}/content/${segment(id)}/label`), { name }),
          write
        )
      ),
    properties: (id) =>
      namedStream("Confluence.properties", [id], () =>
        list("Confluence.properties", `${pagePath(id)}/properties`, Property, (one) => one.id, { limit: 100 })
      ),
    getProperty: (id, key) => named("Confluence.getProperty", [id, key], () => findProperty(id, key)),
    setProperty: (id, key, value) =>
      named("Confluence.setProperty", [id, key], () =>
        Effect.flatMap(findProperty(id, key), (found) =>
          Option.match(found, {
            onNone: () =>
              ask(
                "Confluence.setProperty",
                withJson(HttpClientRequest.post(`${pagePath(id)}/properties`), { key, value }),
                { ...write, schema: Property }
              ),
            onSome: (one) =>
              ask(
                "Confluence.setProperty",
                withJson(HttpClientRequest.put(`${pagePath(id)}/properties/${segment(one.id)}`), {
                  key,
                  value,
                  version: { number: (one.version?.number ?? 0) + 1 }
                }),
                { ...write, schema: Property }
              )
          })
        )
      ),
    deleteProperty: (id, propertyId) =>
      named("Confluence.deleteProperty", [id, propertyId], () =>
        ask(
          "Confluence.deleteProperty",
          HttpClientRequest.del(`${pagePath(id)}/properties/${segment(propertyId)}`),
          write
        )
      ),
    comments: (id, options) =>
      namedStream("Confluence.comments", [id], () =>
        list("Confluence.comments", `${pagePath(id)}/footer-comments`, Comment, (one) => one.id, {
          "body-format": options?.bodyFormat ?? "storage",
          limit: 100
        })
      ),
    addComment: (to, body) =>
      ask(
        "Confluence.addComment",
        withJson(HttpClientRequest.post(`${v2}/footer-comments`), { ...to, body: bodyOf(body) }),
        { ...write, schema: Comment }
      ),
    updateComment: ({ body, id, version }) =>
      named("Confluence.updateComment", [id], () =>
        ask(
          "Confluence.updateComment",
          withJson(HttpClientRequest.put(`${v2}/footer-comments/${segment(id)}`), {
            version: { number: version + 1 },
            body: bodyOf(body)
          }),
          { ...write, schema: Comment }
        )
      ),
    deleteComment: (id) =>
      named("Confluence.deleteComment", [id], () =>
        ask("Confluence.deleteComment", HttpClientRequest.del(`${v2}/footer-comments/${segment(id)}`), write)
      ),
    attachments: (id, options) =>
      namedStream("Confluence.attachments", [id], () =>
        list("Confluence.attachments", `${pagePath(id)}/attachments`, Attachment, (one) => one.id, {
          filename: options?.filename,
          mediaType: options?.mediaType,
          limit: 100
        })
      ),
    getAttachment,
    addAttachments: (id, files, options) =>
      named("Confluence.addAttachments", [id], () =>
        files.length === 0
          ? Effect.succeed([])
          : Site.uploading(at, "Confluence.addAttachments", files, (watched) => {
              const { body, contentType } = Site.multipart(watched, {
                minorEdit: String(options?.minorEdit ?? true),
                ...(options?.comment === undefined ? {} : { comment: options.comment })
              })
              const path = `${v1}/content/${segment(id)}/child/attachment`
              return Effect.map(
                ask(
                  "Confluence.addAttachments",
                  (options?.replace === true ? HttpClientRequest.put(path) : HttpClientRequest.post(path)).pipe(
                    HttpClientRequest.setHeader("x-atlassian-token", "nocheck"),
                    HttpClientRequest.setBody(HttpBody.stream(body, contentType))
                  ),
                  { ...write, schema: Uploaded }
                ),
                ({ results }) =>
                  results.map(
                    ({ _links, extensions, version, ...rest }): Attachment => ({
                      ...rest,
                      ...extensions,
                      pageId: id,
                      ...(version === undefined ? {} : { version }),
                      ...(_links?.download === undefined ? {} : { downloadLink: _links.download })
                    })
                  )
              )
            })
      ),
    download: (id) =>
      Stream.unwrap(
        Effect.flatMap(getAttachment(id), ({ downloadLink, pageId }) => {
          const path =
            pageId !== undefined
              ? `${v1}/content/${segment(pageId)}/child/attachment/${segment(id)}/download`
              : downloadLink?.startsWith("/") === true && !downloadLink.startsWith("//")
                ? `/wiki${downloadLink}`
                : undefined
          return path === undefined
            ? Site.failure(at, "Unknown", "Confluence.download", "the attachment came without an address")
            : Effect.succeed(
                Site.download(
                  site,
                  "Confluence.download",
                  HttpClientRequest.setHeader(HttpClientRequest.get(path), "accept", "*/*")
                )
              )
        })
      ),
    deleteAttachment: (id, options) =>
      named("Confluence.deleteAttachment", [id], () =>
        ask(
          "Confluence.deleteAttachment",
          withQuery(HttpClientRequest.del(`${v2}/attachments/${segment(id)}`), { purge: options?.purge }),
          write
        )
      ),
    search: (cql, options) =>
      list("Confluence.search", `${v1}/search`, SearchResult, ({ content, url }) => content?.id ?? url, {
        cql,
        limit: options?.pageSize ?? 50,
        excerpt: options?.excerpt
      }),
    request
  }
}

/**
 * Makes a connection to Confluence. Settings that cannot work are `InvalidSettings`, and say what to write.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: ConfluenceSettings,
  name: string = kindName
): Effect.fn.Return<ConfluenceConnection, ConnectionError, Scope.Scope> {
  const site = yield* Site.make({ kind: kindName, name }, settings, (http) =>
    Effect.as(
      http.request("Confluence.spaces", get(`${v2}/spaces`, { limit: 1 }), { ...read, schema: listOf(Space) }),
      {
        status: "up" as const
      }
    )
  )
  const client = clientOf(site)
  return { ...site.http.connectionOf(client), client }
})

/**
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: ConfluenceSettings): Layer.Layer<Confluence, ConnectionError> =>
  Layer.scoped(Confluence, make(settings))

/**
 * How the settings are read from a configuration; see `ConfluenceSettings`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct(siteFields)

/**
 * Reads the settings below `confluence`, or another path.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (path = kindName): Layer.Layer<Confluence, ConnectionError | ConfigError.ConfigError> =>
  Layer.scoped(
    Confluence,
    Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings))
  )

/**
 * Confluence for `Connections.layer`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<ConfluenceClient, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})

/**
 * A value in a query: a text, a number, or a function such as `cql.call("currentUser")`.
 *
 * @since 0.1.0
 * @category models
 */
export type CqlValue = Query.Value

/** Fields of CQL are plain names; those of properties have dots and brackets. What else comes is quoted. */
const fieldText = (field: string): string =>
  /^[A-Za-z][\w.]*(?:\[[\w-]+\](?:\.[\w.]+)?)?$/.test(field) ? field : Query.quote(field)

/**
 * Builds queries of Confluence. All that comes from outside is quoted; each function gives a text.
 *
 * `cql.orderBy(cql.and(cql.eq("type", "page"), cql.in("space", keys), cql.contains("text", words)), ["lastmodified", "desc"])`
 *
 * @since 0.1.0
 * @category constructors
 */
export const cql: Query.Operators = Query.operators(fieldText, "id = 0", "id != 0")
