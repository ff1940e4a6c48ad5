// What the front end's JSDoc speaks of: the studio's answers, as its schema says (build/studio-api.d.ts, made by `make check-web`).
import type { components, paths } from "../build/studio-api";

export type Schemas = components["schemas"];
export type Method = "get" | "post" | "put" | "patch" | "delete";

/** `/api/projects/{project}/images` as `/api/projects/${string}/images`. */
type Gaps<Path extends string> = Path extends `${infer Before}{${string}}${infer After}` ? `${Before}${string}${Gaps<After>}` : Path;
type Every<Verb extends Method> = { [Path in keyof paths]: paths[Path] extends Record<Verb, { responses: unknown }> ? Path : never }[keyof paths];
/** The route that an address belongs to; never: there is none. */
type Route<Verb extends Method, Address extends string> = {
  [Path in Every<Verb>]: `/api${Address}` extends Gaps<Path> ? (Gaps<Path> extends `/api${Address}` ? Path : never) : never;
}[Every<Verb>];
type Of<Verb extends Method, Address extends string> = paths[Route<Verb, Address>][Verb & keyof paths[Route<Verb, Address>]];

/** An address that there is. */
export type Known<Verb extends Method, Address extends string> = [Route<Verb, Address>] extends [never] ? never : Address;
/** What it answers. */
export type Answer<Verb extends Method, Address extends string> =
  Of<Verb, Address> extends { responses: { 200: { content: { "application/json": infer Found } } } } ? Found : never;
/** What it asks for. */
export type Body<Verb extends Method, Address extends string> =
  Of<Verb, Address> extends { requestBody: { content: { "application/json": infer Asked } } } ? Asked : Record<string, never>;
