/**
 * Jira Cloud (REST API v3, and the agile API for boards and sprints) as a connection. Lists are streams that ask for the
 * next page when it is wanted.
 *
 * @since 0.1.0
 */
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import {
  type Connection,
  type ConnectionError,
  configOfSchema,
  type Kind,
  kindOf
} from "@underlay/core/connection/Connection"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { AdfDocument, AdfMark, AdfNode } from "../internal/atlassian/adfText.ts"
import * as AdfText from "../internal/atlassian/adfText.ts"
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

export type {
  /**
   * A text of Jira: the Atlassian Document Format.
   *
   * @since 0.1.0
   * @category models
   */
  AdfDocument,
  /**
   * @since 0.1.0
   * @category models
   */
  AdfMark,
  /**
   * @since 0.1.0
   * @category models
   */
  AdfNode
}

const kindName = "jira"

/**
 * @since 0.1.0
 * @category models
 */
export interface JiraSettings extends SiteSettings {}

const Anything = Schema.Record({ key: Schema.String, value: Schema.Unknown })

/**
 * What is read of a user. Jira tells an email address only where the user permits it.
 *
 * @since 0.1.0
 * @category schemas
 */
export const User = Schema.Struct({
  accountId: Text,
  accountType: Text,
  displayName: Text,
  emailAddress: Text,
  active: Flag,
  timeZone: Text,
  self: Text
})
/**
 * @since 0.1.0
 * @category models
 */
export interface User extends Schema.Schema.Type<typeof User> {}

/**
 * An issue: its fields by their ids, as they came (`summary` is a text, `status` an object, `description` a document).
 *
 * @since 0.1.0
 * @category schemas
 */
export const Issue = Schema.Struct({
  id: Schema.String,
  key: Text,
  self: Text,
  fields: Schema.optionalWith(Anything, { nullable: true, default: () => ({}) }),
  renderedFields: Schema.optionalWith(Anything, { nullable: true, exact: true }),
  names: Schema.optionalWith(Anything, { nullable: true, exact: true }),
  properties: Schema.optionalWith(Anything, { nullable: true, exact: true }),
  changelog: Schema.optionalWith(Schema.Unknown, { exact: true }),
  transitions: Schema.optionalWith(Schema.Unknown, { exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Issue extends Schema.Schema.Type<typeof Issue> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const CreatedIssue = Schema.Struct({ id: Schema.String, key: Schema.String, self: Text })
/**
 * @since 0.1.0
 * @category models
 */
export interface CreatedIssue extends Schema.Schema.Type<typeof CreatedIssue> {}

/**
 * A step of the workflow that the issue can take now.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Transition = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  to: Schema.optionalWith(Schema.Struct({ id: Text, name: Text }), { nullable: true, exact: true }),
  hasScreen: Flag,
  isAvailable: Flag,
  fields: Schema.optionalWith(Anything, { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Transition extends Schema.Schema.Type<typeof Transition> {}

/**
 * A comment. `body` is a document, which `adf.toMarkdown` reads.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Comment = Schema.Struct({
  id: Schema.String,
  self: Text,
  author: Schema.optionalWith(User, { nullable: true, exact: true }),
  updateAuthor: Schema.optionalWith(User, { nullable: true, exact: true }),
  body: Schema.optionalWith(Schema.Unknown, { exact: true }),
  created: Text,
  updated: Text,
  visibility: Schema.optionalWith(Schema.Struct({ type: Text, value: Text, identifier: Text }), {
    nullable: true,
    exact: true
  })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Comment extends Schema.Schema.Type<typeof Comment> {}

/**
 * A file at an issue; `size` in bytes.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Attachment = Schema.Struct({
  id: Id,
  filename: Text,
  mimeType: Text,
  size: Whole,
  created: Text,
  content: Text,
  author: Schema.optionalWith(User, { nullable: true, exact: true }),
  self: Text
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Attachment extends Schema.Schema.Type<typeof Attachment> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Project = Schema.Struct({
  id: Schema.String,
  key: Schema.String,
  name: Text,
  projectTypeKey: Text,
  simplified: Flag,
  isPrivate: Flag,
  self: Text
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Project extends Schema.Schema.Type<typeof Project> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Field = Schema.Struct({
  id: Schema.String,
  key: Text,
  name: Text,
  custom: Flag,
  orderable: Flag,
  searchable: Flag,
  clauseNames: Schema.optionalWith(Schema.Array(Schema.String), { nullable: true, exact: true }),
  schema: Schema.optionalWith(Anything, { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Field extends Schema.Schema.Type<typeof Field> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Board = Schema.Struct({
  id: Schema.Number,
  name: Text,
  /** `scrum`, `kanban` or `simple`. */
  type: Text,
  self: Text,
  location: Schema.optionalWith(
    Schema.Struct({ projectId: Whole, projectKey: Text, projectName: Text, displayName: Text }),
    { nullable: true, exact: true }
  )
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Board extends Schema.Schema.Type<typeof Board> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Sprint = Schema.Struct({
  id: Schema.Number,
  name: Text,
  /** `future`, `active` or `closed`. */
  state: Text,
  startDate: Text,
  endDate: Text,
  completeDate: Text,
  goal: Text,
  originBoardId: Whole,
  self: Text
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Sprint extends Schema.Schema.Type<typeof Sprint> {}

/**
 * How two issues can be linked: `outward` reads from the one, `inward` from the other ("blocks", "is blocked by").
 *
 * @since 0.1.0
 * @category schemas
 */
export const IssueLinkType = Schema.Struct({ id: Text, name: Text, inward: Text, outward: Text, self: Text })
/**
 * @since 0.1.0
 * @category models
 */
export interface IssueLinkType extends Schema.Schema.Type<typeof IssueLinkType> {}

/**
 * @since 0.1.0
 * @category schemas
 */
export const Watchers = Schema.Struct({
  isWatching: Flag,
  watchCount: Whole,
  watchers: Schema.optionalWith(Schema.Array(User), { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Watchers extends Schema.Schema.Type<typeof Watchers> {}

/**
 * One change of an issue, with what it changed.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Change = Schema.Struct({
  id: Schema.String,
  created: Text,
  author: Schema.optionalWith(User, { nullable: true, exact: true }),
  /** Each with `field`, `from`, `fromString`, `to`, `toString`. */
  items: Schema.optionalWith(Schema.Array(Anything), { nullable: true, exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Change extends Schema.Schema.Type<typeof Change> {}

/**
 * @since 0.1.0
 * @category models
 */
export interface SearchOptions {
  /** A query, see `jql`. Jira takes none that is not bounded, such as one with an order only. */
  readonly jql: string
  /** Ids of fields, or `*all`, `*navigable`; with none, Jira gives ids alone. */
  readonly fields?: ReadonlyArray<string> | undefined
  /** `names`, `renderedFields`, `changelog`, `transitions`, … */
  readonly expand?: ReadonlyArray<string> | undefined
  readonly properties?: ReadonlyArray<string> | undefined
  readonly fieldsByKeys?: boolean | undefined
  /** Issues a page, 1 to 5,000: 100. Jira gives fewer where many fields are wanted. */
  readonly pageSize?: number | undefined
  /** Ids of issues that were just written and are to be found already, at most 50. */
  readonly reconcileIssues?: ReadonlyArray<number> | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface SearchPage {
  readonly issues: ReadonlyArray<Issue>
  /** For the next page; there is none behind the last. */
  readonly nextPageToken: string | undefined
}

/**
 * What an issue is made of or changed to. `fields` sets, `update` adds, removes and edits, as Jira describes it.
 *
 * @since 0.1.0
 * @category models
 */
export interface IssueInput {
  readonly fields?: Readonly<Record<string, unknown>> | undefined
  readonly update?: Readonly<Record<string, ReadonlyArray<Readonly<Record<string, unknown>>>>> | undefined
  readonly properties?: ReadonlyArray<{ readonly key: string; readonly value: unknown }> | undefined
}

/**
 * What became of many: those that were made, and those that were not, by their places in what was given.
 *
 * @since 0.1.0
 * @category models
 */
export interface CreatedIssues {
  readonly created: ReadonlyArray<CreatedIssue>
  readonly failed: ReadonlyArray<{
    readonly at: number
    readonly status: number | undefined
    /** Names of the fields that were refused. */
    readonly fields: ReadonlyArray<string>
  }>
}

/**
 * A text for Jira: plain text, or a document, which `adf.fromMarkdown` makes of Markdown.
 *
 * @since 0.1.0
 * @category models
 */
export type TextInput = string | AdfDocument

/**
 * @since 0.1.0
 * @category models
 */
export interface TransitionOptions {
  /** By id, by the name of the transition, or by the name of the status it leads to; names as they are, whatever their case. */
  readonly to: string
  readonly fields?: Readonly<Record<string, unknown>> | undefined
  readonly update?: IssueInput["update"]
  /** Added in the same request. */
  readonly comment?: TextInput | undefined
}

/**
 * Who may see a comment: a role or a group.
 *
 * @since 0.1.0
 * @category models
 */
export interface Visibility {
  readonly type: "role" | "group"
  /** The name of the role or group. */
  readonly value?: string | undefined
  /** The id of the group. */
  readonly identifier?: string | undefined
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
 * Jira. Everything fails with `ConnectionError`: names of refused fields are in its description, what was in them is not.
 * Reads are tried again after what passes (429 and 503 when Jira says, broken connections), writes never.
 *
 * @since 0.1.0
 * @category models
 */
export interface JiraClient {
  /**
   * All issues that a query finds. It fails where the service goes in circles (the same token or page twice), or gives
   * 10,000 empty pages in a row.
   */
  readonly search: (options: SearchOptions) => Stream.Stream<Issue, ConnectionError>
  /** One page of them. A page token holds for the same query only, and for a week. */
  readonly searchPage: (
    options: SearchOptions & { readonly nextPageToken?: string | undefined }
  ) => Effect.Effect<SearchPage, ConnectionError>
  /** About how many issues a query finds. */
  readonly count: (jql: string) => Effect.Effect<number, ConnectionError>
  readonly getIssue: (
    issue: string,
    options?: {
      readonly fields?: ReadonlyArray<string> | undefined
      readonly expand?: ReadonlyArray<string> | undefined
      readonly properties?: ReadonlyArray<string> | undefined
    }
  ) => Effect.Effect<Issue, ConnectionError>
  readonly createIssue: (input: IssueInput) => Effect.Effect<CreatedIssue, ConnectionError>
  /** Makes up to 50. Some may be made and others refused. */
  readonly createIssues: (inputs: ReadonlyArray<IssueInput>) => Effect.Effect<CreatedIssues, ConnectionError>
  readonly updateIssue: (
    issue: string,
    input: IssueInput,
    options?: { readonly notifyUsers?: boolean | undefined }
  ) => Effect.Effect<void, ConnectionError>
  readonly deleteIssue: (
    issue: string,
    options?: { readonly deleteSubtasks?: boolean | undefined }
  ) => Effect.Effect<void, ConnectionError>
  /** `null` for nobody, `"-1"` for whom the project has by default. */
  readonly assign: (issue: string, accountId: string | null) => Effect.Effect<void, ConnectionError>
  readonly transitions: (
    issue: string,
    options?: { readonly fields?: boolean | undefined }
  ) => Effect.Effect<ReadonlyArray<Transition>, ConnectionError>
  /** Takes a step of the workflow. `NotFound` where there is none such now, `InvalidRequest` where several have the name. */
  readonly transition: (issue: string, options: TransitionOptions) => Effect.Effect<void, ConnectionError>
  readonly changes: (issue: string) => Stream.Stream<Change, ConnectionError>
  readonly comments: (
    issue: string,
    options?: { readonly orderBy?: "created" | "-created" | undefined; readonly pageSize?: number | undefined }
  ) => Stream.Stream<Comment, ConnectionError>
  readonly addComment: (
    issue: string,
    body: TextInput,
    options?: { readonly visibility?: Visibility | undefined }
  ) => Effect.Effect<Comment, ConnectionError>
  readonly updateComment: (
    issue: string,
    id: string,
    body: TextInput,
    options?: { readonly visibility?: Visibility | undefined }
  ) => Effect.Effect<Comment, ConnectionError>
  readonly deleteComment: (issue: string, id: string) => Effect.Effect<void, ConnectionError>
  /** Uploads files, as streams. A failure of their content is `Cancelled`, with that as its cause. */
  readonly addAttachments: (
    issue: string,
    files: ReadonlyArray<Upload>
  ) => Effect.Effect<ReadonlyArray<Attachment>, ConnectionError>
  readonly getAttachment: (id: string) => Effect.Effect<Attachment, ConnectionError>
  /** The bytes of a file. The token is not sent to other hosts, to which Jira may redirect. */
  readonly download: (id: string) => Stream.Stream<Uint8Array, ConnectionError>
  readonly deleteAttachment: (id: string) => Effect.Effect<void, ConnectionError>
  readonly boards: (options?: {
    readonly projectKeyOrId?: string | undefined
    readonly type?: "scrum" | "kanban" | "simple" | undefined
    readonly name?: string | undefined
  }) => Stream.Stream<Board, ConnectionError>
  readonly sprints: (
    board: number,
    options?: { readonly states?: ReadonlyArray<"future" | "active" | "closed"> | undefined }
  ) => Stream.Stream<Sprint, ConnectionError>
  readonly boardIssues: (
    board: number,
    options?: { readonly jql?: string | undefined; readonly fields?: ReadonlyArray<string> | undefined }
  ) => Stream.Stream<Issue, ConnectionError>
  readonly sprintIssues: (
    sprint: number,
    options?: { readonly jql?: string | undefined; readonly fields?: ReadonlyArray<string> | undefined }
  ) => Stream.Stream<Issue, ConnectionError>
  readonly projects: (options?: { readonly query?: string | undefined }) => Stream.Stream<Project, ConnectionError>
  readonly myself: Effect.Effect<User, ConnectionError>
  /** Users whose name or email begins with `query`. */
  readonly searchUsers: (query: string) => Stream.Stream<User, ConnectionError>
  readonly fields: Effect.Effect<ReadonlyArray<Field>, ConnectionError>
  readonly issueLinkTypes: Effect.Effect<ReadonlyArray<IssueLinkType>, ConnectionError>
  /** `outward` blocks `inward`, where `type` is "Blocks". */
  readonly linkIssues: (link: {
    readonly type: string
    readonly inward: string
    readonly outward: string
    readonly comment?: TextInput | undefined
  }) => Effect.Effect<void, ConnectionError>
  readonly deleteIssueLink: (id: string) => Effect.Effect<void, ConnectionError>
  readonly watchers: (issue: string) => Effect.Effect<Watchers, ConnectionError>
  /** By default who the token belongs to. */
  readonly addWatcher: (issue: string, accountId?: string) => Effect.Effect<void, ConnectionError>
  readonly removeWatcher: (issue: string, accountId: string) => Effect.Effect<void, ConnectionError>
  /** Anything else: a request whose path begins with `/rest/`, watched like all others under the name given. */
  readonly request: <A, I>(
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    options: RequestOptions<A, I>
  ) => Effect.Effect<A, ConnectionError>
}

/**
 * A connection to Jira.
 *
 * @since 0.1.0
 * @category models
 */
export interface JiraConnection extends Connection<JiraClient> {
  readonly client: JiraClient
}

/**
 * @since 0.1.0
 * @category tags
 */
export class Jira extends Context.Tag("@underlay/connections/Jira")<Jira, JiraConnection>() {}

const api = "/rest/api/3"
const agile = "/rest/agile/1.0"

const documentOf = (text: TextInput): AdfDocument => (typeof text === "string" ? AdfText.fromText(text) : text)

const SearchAnswer = Schema.Struct({
  issues: Schema.optionalWith(Schema.Array(Issue), { nullable: true, default: () => [] }),
  nextPageToken: Text
})

const pageOf = <A, I>(item: Schema.Schema<A, I>) =>
  Schema.Struct({
    values: Schema.optionalWith(Schema.Array(item), { nullable: true, default: () => [] }),
    isLast: Flag,
    total: Whole
  })

const isList = <A>(value: ReadonlyArray<A> | object): value is ReadonlyArray<A> => Array.isArray(value)

const BulkAnswer = Schema.Struct({
  issues: Schema.optionalWith(Schema.Array(CreatedIssue), { nullable: true, default: () => [] }),
  errors: Schema.optionalWith(
    Schema.Union(
      Schema.Array(
        Schema.Struct({
          failedElementNumber: Whole,
          status: Whole,
          elementErrors: Schema.optionalWith(
            Schema.Struct({ errors: Schema.optionalWith(Anything, { nullable: true, exact: true }) }),
            { nullable: true, exact: true }
          )
        })
      ),
      // Where the request is refused as a whole, it is no list.
      Schema.Record({ key: Schema.String, value: Schema.Unknown })
    ),
    { nullable: true, default: () => [] }
  )
})

const clientOf = (site: Site.Site): JiraClient => {
  const { at } = site
  const { ask, invalid, named, namedStream, request } = Calls.make(site, { names: "id or key", root: "/rest/" })
  const issuePath = (issue: string): string => `${api}/issue/${segment(issue)}`

  const searchPage: JiraClient["searchPage"] = (options) =>
    ask(
      "Jira.search",
      withJson(HttpClientRequest.post(`${api}/search/jql`), {
        jql: options.jql,
        maxResults: options.pageSize ?? 100,
        ...(options.fields === undefined ? {} : { fields: options.fields }),
        ...(options.expand === undefined ? {} : { expand: options.expand.join(",") }),
        ...(options.properties === undefined ? {} : { properties: options.properties }),
        ...(options.fieldsByKeys === undefined ? {} : { fieldsByKeys: options.fieldsByKeys }),
        ...(options.reconcileIssues === undefined ? {} : { reconcileIssues: options.reconcileIssues }),
        ...(options.nextPageToken === undefined ? {} : { nextPageToken: options.nextPageToken })
      }),
      { ...read, schema: SearchAnswer }
    ).pipe(
      Effect.map(({ issues, nextPageToken }) => ({
        issues,
        nextPageToken: nextPageToken === "" ? undefined : nextPageToken
      }))
    )

  const transitions: JiraClient["transitions"] = (issue, options) =>
    named("Jira.transitions", [issue], () =>
      Effect.map(
        ask(
          "Jira.transitions",
          get(`${issuePath(issue)}/transitions`, {
            expand: options?.fields === true ? "transitions.fields" : undefined
          }),
          {
            ...read,
            schema: Schema.Struct({
              transitions: Schema.optionalWith(Schema.Array(Transition), { nullable: true, default: () => [] })
            })
          }
        ),
        (answer) => answer.transitions
      )
    )

  const counted = <A, I>(
    operation: string,
    path: string,
    item: Schema.Schema<A, I>,
    idOf: (item: A) => string | undefined,
    query: Parameters
  ): Stream.Stream<A, ConnectionError> =>
    Site.countedPages(at, operation, idOf, (startAt) =>
      Effect.map(
        ask(operation, get(path, { ...query, startAt }), { ...read, schema: pageOf(item) }),
        ({ isLast, total, values }) => ({ items: values, isLast, total })
      )
    )

  const agileIssues = (operation: string, path: string, query: Parameters): Stream.Stream<Issue, ConnectionError> =>
    Site.countedPages(
      at,
      operation,
      ({ id }) => id,
      (startAt) =>
        Effect.map(
          ask(operation, get(path, { ...query, startAt, maxResults: 50 }), {
            ...read,
            schema: Schema.Struct({ ...SearchAnswer.fields, total: Whole, isLast: Flag })
          }),
          ({ isLast, issues, total }) => ({ items: issues, isLast, total })
        )
    )

  const commentBody = (body: TextInput, visibility: Visibility | undefined) => ({
    body: documentOf(body),
    ...(visibility === undefined ? {} : { visibility })
  })

  return {
    searchPage,
    search: (options) =>
      Site.pages(
        at,
        "Jira.search",
        ({ id }) => id,
        // Whether there is more is told by the token alone: `isLast` has been wrong.
        (from) =>
          Effect.map(searchPage({ ...options, nextPageToken: from }), ({ issues, nextPageToken }) => ({
            items: issues,
            next: nextPageToken
          }))
      ),
    count: (jql) =>
      Effect.map(
        ask("Jira.count", withJson(HttpClientRequest.post(`${api}/search/approximate-count`), { jql }), {
          ...read,
          schema: Schema.Struct({ count: Schema.Number })
        }),
        ({ count }) => count
      ),
    getIssue: (issue, options) =>
      named("Jira.getIssue", [issue], () =>
        ask(
          "Jira.getIssue",
          get(issuePath(issue), {
            fields: options?.fields,
            expand: options?.expand,
            properties: options?.properties
          }),
          { ...read, schema: Issue }
        )
      ),
    createIssue: (input) =>
      ask("Jira.createIssue", withJson(HttpClientRequest.post(`${api}/issue`), input), {
        ...write,
        schema: CreatedIssue
      }),
    createIssues: (inputs) => {
      if (inputs.length === 0) return Effect.succeed({ created: [], failed: [] })
      if (inputs.length > 50) return invalid("Jira.createIssues", "Jira takes at most 50 issues at once")
      return Effect.map(
        ask("Jira.createIssues", withJson(HttpClientRequest.post(`${api}/issue/bulk`), { issueUpdates: inputs }), {
          ...write,
          schema: BulkAnswer,
          // Where none was made the status is 400, and what was wrong with each is told all the same.
          accept: (status) => status === 201 || status === 200 || status === 400
        }),
        ({ errors, issues }) => ({
          created: issues,
          failed: (isList(errors) ? errors : []).map((error) => ({
            at: error.failedElementNumber ?? -1,
            status: error.status,
            fields: Object.keys(error.elementErrors?.errors ?? {})
          }))
        })
      ).pipe(
        Effect.filterOrElse(
          ({ created, failed }) => created.length + failed.length > 0,
          () => invalid("Jira.createIssues", "the request was refused")
        )
      )
    },
    updateIssue: (issue, input, options) =>
      named("Jira.updateIssue", [issue], () =>
        ask(
          "Jira.updateIssue",
          withQuery(withJson(HttpClientRequest.put(issuePath(issue)), input), { notifyUsers: options?.notifyUsers }),
          write
        )
      ),
    deleteIssue: (issue, options) =>
      named("Jira.deleteIssue", [issue], () =>
        ask(
          "Jira.deleteIssue",
          withQuery(HttpClientRequest.del(issuePath(issue)), { deleteSubtasks: options?.deleteSubtasks }),
          write
        )
      ),
    assign: (issue, accountId) =>
      named("Jira.assign", [issue], () =>
        ask("Jira.assign", withJson(HttpClientRequest.put(`${issuePath(issue)}/assignee`), { accountId }), write)
      ),
    transitions,
    transition: (issue, options) =>
      named("Jira.transition", [issue], () =>
        Effect.gen(function* () {
          const all = yield* transitions(issue)
          const wanted = options.to.toLowerCase()
          const by = (of: (one: Transition) => string | undefined) =>
            all.filter((one) => of(one)?.toLowerCase() === wanted)
          const found = [by(({ id }) => id), by(({ name }) => name), by(({ to }) => to?.name)].find(
            (some) => some.length > 0
          )
          const [one] = found ?? []
          if (one === undefined) {
            return yield* Site.failure(
              at,
              "NotFound",
              "Jira.transition",
              `the issue has no such transition now, by id, name or status; it has ${all.length}`
            )
          }
          if (found !== undefined && found.length > 1) {
            return yield* invalid("Jira.transition", `${found.length} transitions have this name: give the id of one`)
          }
          const comment =
            options.comment === undefined ? {} : { comment: [{ add: { body: documentOf(options.comment) } }] }
          const update = { ...options.update, ...comment }
          yield* ask(
            "Jira.transition",
            withJson(HttpClientRequest.post(`${issuePath(issue)}/transitions`), {
              transition: { id: one.id },
              ...(options.fields === undefined ? {} : { fields: options.fields }),
              ...(Object.keys(update).length === 0 ? {} : { update })
            }),
            write
          )
        })
      ),
    changes: (issue) =>
      namedStream("Jira.changes", [issue], () =>
        counted("Jira.changes", `${issuePath(issue)}/changelog`, Change, ({ id }) => id, { maxResults: 100 })
      ),
    comments: (issue, options) =>
      namedStream("Jira.comments", [issue], () =>
        Site.countedPages(
          at,
          "Jira.comments",
          ({ id }: Comment) => id,
          (startAt) =>
            Effect.map(
              ask(
                "Jira.comments",
                get(`${issuePath(issue)}/comment`, {
                  startAt,
                  maxResults: options?.pageSize ?? 100,
                  orderBy: options?.orderBy
                }),
                {
                  ...read,
                  schema: Schema.Struct({
                    comments: Schema.optionalWith(Schema.Array(Comment), { nullable: true, default: () => [] }),
                    total: Whole
                  })
                }
              ),
              ({ comments, total }) => ({ items: comments, total })
            )
        )
      ),
    addComment: (issue, body, options) =>
      named("Jira.addComment", [issue], () =>
        ask(
          "Jira.addComment",
          withJson(HttpClientRequest.post(`${issuePath(issue)}/comment`), commentBody(body, options?.visibility)),
          { ...write, schema: Comment }
        )
      ),
    updateComment: (issue, id, body, options) =>
      named("Jira.updateComment", [issue, id], () =>
        ask(
          "Jira.updateComment",
          withJson(
            HttpClientRequest.put(`${issuePath(issue)}/comment/${segment(id)}`),
            commentBody(body, options?.visibility)
          ),
          { ...write, schema: Comment }
        )
      ),
    deleteComment: (issue, id) =>
      named("Jira.deleteComment", [issue, id], () =>
        ask("Jira.deleteComment", HttpClientRequest.del(`${issuePath(issue)}/comment/${segment(id)}`), write)
      ),
    addAttachments: (issue, files) =>
      named("Jira.addAttachments", [issue], () =>
        files.length === 0
          ? Effect.succeed([])
          : Site.uploading(at, "Jira.addAttachments", files, (watched) => {
              const { body, contentType } = Site.multipart(watched)
              return ask(
                "Jira.addAttachments",
                HttpClientRequest.post(`${issuePath(issue)}/attachments`).pipe(
                  HttpClientRequest.setHeader("x-atlassian-token", "no-check"),
                  HttpClientRequest.setBody(HttpBody.stream(body, contentType))
                ),
                { ...write, schema: Schema.Array(Attachment) }
              )
            })
      ),
    getAttachment: (id) =>
      named("Jira.getAttachment", [id], () =>
        ask("Jira.getAttachment", get(`${api}/attachment/${segment(id)}`), { ...read, schema: Attachment })
      ),
    download: (id) =>
      namedStream("Jira.download", [id], () =>
        Site.download(
          site,
          "Jira.download",
          HttpClientRequest.setHeader(
            get(`${api}/attachment/content/${segment(id)}`, { redirect: false }),
            "accept",
            "*/*"
          )
        )
      ),
    deleteAttachment: (id) =>
      named("Jira.deleteAttachment", [id], () =>
        ask("Jira.deleteAttachment", HttpClientRequest.del(`${api}/attachment/${segment(id)}`), write)
      ),
    boards: (options) =>
      counted("Jira.boards", `${agile}/board`, Board, ({ id }) => String(id), { maxResults: 50, ...options }),
    sprints: (board, options) =>
      counted("Jira.sprints", `${agile}/board/${board}/sprint`, Sprint, ({ id }) => String(id), {
        maxResults: 50,
        state: options?.states
      }),
    boardIssues: (board, options) => agileIssues("Jira.boardIssues", `${agile}/board/${board}/issue`, { ...options }),
    sprintIssues: (sprint, options) =>
      agileIssues("Jira.sprintIssues", `${agile}/sprint/${sprint}/issue`, { ...options }),
    projects: (options) =>
      counted("Jira.projects", `${api}/project/search`, Project, ({ id }) => id, {
        maxResults: 50,
        query: options?.query
      }),
    myself: ask("Jira.myself", get(`${api}/myself`), { ...read, schema: User }),
    searchUsers: (query) =>
      Site.countedPages(
        at,
        "Jira.searchUsers",
        ({ accountId }: User) => accountId,
        (startAt) =>
          Effect.map(
            ask("Jira.searchUsers", get(`${api}/user/search`, { query, startAt, maxResults: 100 }), {
              ...read,
              schema: Schema.Array(User)
            }),
            (items) => ({ items })
          )
      ),
    fields: ask("Jira.fields", get(`${api}/field`), { ...read, schema: Schema.Array(Field) }),
    issueLinkTypes: Effect.map(
      ask("Jira.issueLinkTypes", get(`${api}/issueLinkType`), {
        ...read,
        schema: Schema.Struct({
          issueLinkTypes: Schema.optionalWith(Schema.Array(IssueLinkType), { nullable: true, default: () => [] })
        })
      }),
      (answer) => answer.issueLinkTypes
    ),
    linkIssues: ({ comment, inward, outward, type }) =>
      ask(
        "Jira.linkIssues",
        withJson(HttpClientRequest.post(`${api}/issueLink`), {
          type: { name: type },
          inwardIssue: { key: inward },
          outwardIssue: { key: outward },
          ...(comment === undefined ? {} : { comment: { body: documentOf(comment) } })
        }),
        write
      ),
    deleteIssueLink: (id) =>
      named("Jira.deleteIssueLink", [id], () =>
        ask("Jira.deleteIssueLink", HttpClientRequest.del(`${api}/issueLink/${segment(id)}`), write)
      ),
    watchers: (issue) =>
      named("Jira.watchers", [issue], () =>
        ask("Jira.watchers", get(`${issuePath(issue)}/watchers`), { ...read, schema: Watchers })
      ),
    addWatcher: (issue, accountId) =>
      named("Jira.addWatcher", [issue, accountId ?? "me"], () => {
        const request = HttpClientRequest.post(`${issuePath(issue)}/watchers`)
        return ask("Jira.addWatcher", accountId === undefined ? request : withJson(request, accountId), write)
      }),
    removeWatcher: (issue, accountId) =>
      named("Jira.removeWatcher", [issue, accountId], () =>
        ask(
          "Jira.removeWatcher",
          withQuery(HttpClientRequest.del(`${issuePath(issue)}/watchers`), { accountId }),
          write
        )
      ),
    request
  }
}

/**
 * Makes a connection to Jira. Settings that cannot work are `InvalidSettings`, and say what to write.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: JiraSettings,
  name: string = kindName
): Effect.fn.Return<JiraConnection, ConnectionError, Scope.Scope> {
  const site = yield* Site.make({ kind: kindName, name }, settings, (http) =>
    Effect.map(http.request("Jira.myself", get(`${api}/myself`), { ...read, schema: User }), ({ active }) =>
      active === false
        ? { status: "degraded" as const, details: { reason: "the account of the token is not active" } }
        : { status: "up" as const }
    )
  )
  const client = clientOf(site)
  return { ...site.http.connectionOf(client), client }
})

/**
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: JiraSettings): Layer.Layer<Jira, ConnectionError> => Layer.scoped(Jira, make(settings))

/**
 * How the settings are read from a configuration; see `JiraSettings`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct(siteFields)

/**
 * Reads the settings below `jira`, or another path.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (path = kindName): Layer.Layer<Jira, ConnectionError | ConfigError.ConfigError> =>
  Layer.scoped(
    Jira,
    Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings))
  )

/**
 * Jira for `Connections.layer`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<JiraClient, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})

/**
 * A text that cannot be converted. `Malformed`: it is no document. `TooDeep`, `TooComplex` and `TooLarge`: it would take too
 * long. It holds none of the text.
 *
 * @since 0.1.0
 * @category errors
 */
export class AdfError extends Schema.TaggedError<AdfError>("@underlay/connections/AdfError")("AdfError", {
  reason: Schema.Literal("Malformed", "TooDeep", "TooComplex", "TooLarge"),
  method: Schema.Literal("toMarkdown", "fromMarkdown"),
  description: Schema.String
}) {
  /** The same text gives the same. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    return `adf.${this.method}: ${this.reason}: ${this.description}`
  }
}

const helpers = Effect.promise(() => import("../internal/atlassian/adfMarkdown.ts"))

const converted = <A>(
  method: "toMarkdown" | "fromMarkdown",
  f: (helper: typeof import("../internal/atlassian/adfMarkdown.ts")) => A
): Effect.Effect<A, AdfError> =>
  Effect.flatMap(helpers, (helper) =>
    Effect.suspend(() => {
      try {
        return Effect.succeed(f(helper))
      } catch (error) {
        return error instanceof helper.Refused
          ? Effect.fail(new AdfError({ reason: error.reason, method, description: error.message }))
          : Effect.die(error)
      }
    })
  )

/**
 * The Atlassian Document Format, in which Jira has descriptions and comments.
 *
 * `fromText` makes paragraphs of plain text. `fromMarkdown` takes Markdown of up to 500,000 characters; links to
 * `accountid:<id>` are mentions, quotes that begin with `[!INFO]` are panels, `<details>` expands; where Jira does not take
 * something (a heading in a list) it becomes what it holds. `toMarkdown` is its inverse for what it makes; nodes that
 * Markdown has no form for become fenced blocks of the language `adf`, which come back as they were.
 *
 * @since 0.1.0
 * @category conversions
 */
export const adf = {
  fromText: (text: string): AdfDocument => AdfText.fromText(text),
  fromMarkdown: (markdown: string): Effect.Effect<AdfDocument, AdfError> =>
    converted("fromMarkdown", (helper) => helper.fromMarkdown(markdown)),
  toMarkdown: (document: unknown): Effect.Effect<string, AdfError> =>
    converted("toMarkdown", (helper) => helper.toMarkdown(document))
} as const

/**
 * A value in a query: a text, a number, or a function such as `jql.call("currentUser")`.
 *
 * @since 0.1.0
 * @category models
 */
export type JqlValue = Query.Value

const fieldText = (field: string): string => (/^cf\[\d+\]$/.test(field) ? field : Query.quote(field))

/**
 * Builds queries of Jira. All that comes from outside is quoted, fields too; each function gives a text.
 *
 * `jql.orderBy(jql.and(jql.eq("project", key), jql.in("status", ["To Do", "Done"])), ["created", "desc"])`
 *
 * @since 0.1.0
 * @category constructors
 */
export const jql: Query.Operators & {
  readonly isEmpty: (field: string) => string
  readonly isNotEmpty: (field: string) => string
} = {
  ...Query.operators(fieldText, "issuekey is EMPTY", "issuekey is not EMPTY"),
  isEmpty: (field) => `${fieldText(field)} is EMPTY`,
  isNotEmpty: (field) => `${fieldText(field)} is not EMPTY`
}
