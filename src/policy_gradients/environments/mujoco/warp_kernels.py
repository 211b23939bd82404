"""What is written in Warp's own language: copies, and contacts of planes and capsules as C makes them."""

# Warp compiles these functions; to a checker of Python's types they mean little.
# pyright: basic, reportGeneralTypeIssues=false, reportAssignmentType=false, reportInvalidTypeForm=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false, reportMissingImports=warning

import warp as wp
from mujoco_warp._src import collision_primitive


@wp.kernel
def take(packed: wp.array2d(dtype=float), start: int, part: wp.array2d(dtype=float)):
    """part = packed[:, start : start + width of part]."""
    world, i = wp.tid()
    part[world, i] = packed[world, start + i]


@wp.kernel
def put(part: wp.array2d(dtype=float), start: int, packed: wp.array2d(dtype=float)):
    """packed[:, start : start + width of part] = part."""
    world, i = wp.tid()
    packed[world, start + i] = part[world, i]


_plane_capsule = collision_primitive.plane_capsule


@wp.func
def plane_capsule_as_in_c(
    normal: wp.vec3, plane: wp.vec3, centre: wp.vec3, axis: wp.vec3, radius: float, half_length: float
):
    """Contacts of a plane and a capsule whose frame always follows the capsule's axis.

    Warp turns to a fixed direction where the axis is within 30° of the plane's normal; C does not, and with pyramidal
    friction cones the directions of the frame matter (github.com/google-deepmind/mujoco/issues/2774).
    """
    distances, positions, _ = _plane_capsule(normal, plane, centre, axis, radius, half_length)
    along = axis - normal * wp.dot(normal, axis)
    length = wp.length(along)
    if length > 1.0e-15:  # noqa: SIM108, Warp's language has no conditional expression of vectors
        along = along / length
    else:
        along = wp.vec3(1.0, 0.0, 0.0)
    across = wp.cross(normal, along)
    frame = wp.mat33(
        normal[0], normal[1], normal[2], along[0], along[1], along[2], across[0], across[1], across[2]
    )  # fmt: skip
    return distances, positions, frame


collision_primitive.plane_capsule = plane_capsule_as_in_c
